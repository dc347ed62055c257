//! Attackers by the thousand: connections that do as little as they can, and come back when they are cut.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::support::eventually;

/// Attackers by the thousand take a machine's time from each other's tests too: one crowd at once.
pub(super) async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static CROWD: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    CROWD.lock().await
}

/// An address to call from: all of 127/8 is this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller(pub(super) Ipv4Addr);

impl Caller {
    /// Where nobody else calls from.
    pub(super) const ILINK: Self = Self(Ipv4Addr::new(127, 0, 0, 2));
    /// The attacker with one address.
    pub(super) const STRANGER: Self = Self(Ipv4Addr::new(127, 0, 0, 66));

    pub(super) async fn connect(self, port: u16) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((self.0, 0)))?;
        let stream = socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Where attackers come from.
#[derive(Debug, Clone, Copy)]
pub(super) enum From {
    One(Caller),
    /// Each has an address of its own.
    Many,
}

/// What an attacker does once it is connected.
#[derive(Debug, Clone)]
pub(super) struct Habit {
    /// Sent at once.
    pub(super) opening: Vec<u8>,
    /// Sent again and again, every second.
    pub(super) trickle: &'static [u8],
}

impl Habit {
    /// Says nothing.
    pub(super) fn silent() -> Self {
        Self { opening: Vec::new(), trickle: b"" }
    }

    /// Everything a slow client can be slow in.
    pub(super) fn slow() -> Vec<Self> {
        let habit = |opening: &str, trickle| Self { opening: opening.as_bytes().to_vec(), trickle };
        vec![
            Self::silent(),
            habit("POST /", b"x"),
            habit("GET / HTTP/1.1\r\nHost: x\r\n", b"X-A: b\r\n"),
            habit("GET / HTTP/1.1\r\nX-Endless: ", b"x"),
            habit("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{", b" "),
            habit("POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n{\r\n"),
            habit("POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
            habit("\r\n\r\n\r\n", b"\r\n"),
        ]
    }
}

/// So many attackers at work, until dropped.
pub(super) struct Attackers {
    connects: Arc<AtomicUsize>,
    ends: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Attackers {
    /// Attackers of the listener at `port`, with these habits in turn.
    pub(super) fn start(port: u16, count: usize, from: From, habits: &[Habit]) -> Self {
        allow_many_files();
        let (connects, ends) = (Arc::default(), Arc::default());
        let mut tasks = JoinSet::new();
        for (n, habit) in (0..count).zip(habits.iter().cycle()) {
            let caller = match from {
                From::One(caller) => caller,
                From::Many => {
                    let n = u32::try_from(n).expect("a few thousand");
                    Caller(Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + n))
                }
            };
            tasks.spawn(attack(port, caller, habit.clone(), Arc::clone(&connects), Arc::clone(&ends)));
        }
        Self { connects, ends, _tasks: tasks }
    }

    /// How often they got a connection so far, all together.
    pub(super) fn connects(&self) -> usize {
        self.connects.load(Ordering::Relaxed)
    }

    /// How often the bridge has ended a connection of theirs.
    pub(super) fn ends(&self) -> usize {
        self.ends.load(Ordering::Relaxed)
    }

    /// Waits until they have connected so often.
    pub(super) async fn connected(&self, times: usize) {
        let what = format!("{times} connections of attackers");
        eventually(&what, async || (self.connects() >= times).then_some(())).await;
    }
}

async fn attack(port: u16, caller: Caller, habit: Habit, connects: Arc<AtomicUsize>, ends: Arc<AtomicUsize>) {
    loop {
        if let Ok(mut stream) = caller.connect(port).await {
            connects.fetch_add(1, Ordering::Relaxed);
            // It ends when the bridge ends it.
            let _ = dawdle(&mut stream, &habit).await;
            ends.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn dawdle(stream: &mut TcpStream, habit: &Habit) -> io::Result<()> {
    let (mut read, mut write) = stream.split();
    let ended = async {
        let mut sink = [0; 512];
        while read.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    };
    let trickle = async {
        write.write_all(&habit.opening).await?;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            write.write_all(habit.trickle).await?;
        }
    };
    tokio::select! {
        ended = ended => ended,
        failed = trickle => failed,
    }
}

/// Each attacker is an open file of this process.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("the limit may be raised");
    assert!(limit.maximum.is_none_or(|most| most >= 8192), "these tests need a hard limit of 8192 open files");
}

/// Sends a request and reads until `end` was read, or the peer closes.
pub(super) async fn exchange(stream: &mut TcpStream, request: &[u8], end: &[u8]) -> String {
    let mut answer = Vec::new();
    // A peer that has refused already may have closed before it was sent everything.
    let _ = stream.write_all(request).await;
    while !answer.ends_with(end) || end.is_empty() {
        match stream.read_buf(&mut answer).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => break,
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}
