//! Pushes over keep-alive connections: preformatted requests, one thread, nothing that would cost more than the server.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::{Instant, interval, timeout};

use super::message::{Head, Request, now};
use super::recorder::percentiles;

/// Where pushes go.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The connections take them in turn.
    pub(crate) ports: Vec<u16>,
    pub(crate) path: String,
    pub(crate) to_uid: &'static str,
    /// How an answer ends that counts.
    pub(crate) answer: &'static str,
}

/// When it is enough.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    Time(Duration),
    Count(u64),
}

/// What to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    /// All of them together, in pushes a second; none: each as soon as the one before was answered.
    pub(crate) pace: Option<f64>,
    pub(crate) until: Until,
    /// Bytes of a message.
    pub(crate) size: usize,
    /// Distinct senders.
    pub(crate) senders: u64,
}

impl Load {
    /// 100-byte messages of one sender, as fast as they are answered.
    pub(crate) fn fast(connections: usize, until: Until) -> Self {
        Self { connections, pace: None, until, size: 100, senders: 1 }
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Numbers 0 to this were used.
    pub(crate) issued: u64,
    /// Those that were not answered `{"code":0}`.
    pub(crate) unanswered: Vec<u64>,
    /// From the first request to the last answer.
    pub(crate) began_ns: u64,
    pub(crate) ended_ns: u64,
    /// p50, p99 and p99.9 from a request to its answer, in µs.
    pub(crate) latency_us: [f64; 3],
}

impl Outcome {
    pub(crate) fn answered(&self) -> u64 {
        self.issued - self.unanswered.len() as u64
    }
}

/// An answer that is not there after this is not coming.
const PATIENCE: Duration = Duration::from_secs(20);

/// The numbers used of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Numbers {
    issued: u64,
    pub(crate) unanswered: Vec<u64>,
}

#[derive(Default)]
struct Shared {
    numbers: Numbers,
    latencies_us: Vec<u32>,
}

/// Sends it.
pub(crate) async fn drive(target: &Target, load: Load, run: u32) -> Outcome {
    drive_on(target, load, run, &mut Numbers::default()).await
}

/// Sends it with the numbers that follow `numbers`; a count is that of all of them.
pub(crate) async fn drive_on(target: &Target, load: Load, run: u32, numbers: &mut Numbers) -> Outcome {
    let shared = Rc::new(RefCell::new(Shared { numbers: std::mem::take(numbers), latencies_us: Vec::new() }));
    let mut streams = Vec::with_capacity(load.connections);
    for at in 0..load.connections {
        streams.push(connect(target, at).await);
    }
    let tasks = LocalSet::new();
    let (began, began_ns) = (Instant::now(), now());
    for (at, stream) in streams.into_iter().enumerate() {
        let (target, shared) = (target.clone(), Rc::clone(&shared));
        tasks.spawn_local(async move { connection(&target, load, run, at, began, stream, &shared).await });
    }
    tasks.await;
    let ended_ns = now();
    let mut shared = shared.take();
    let latency_us = percentiles(&mut shared.latencies_us);
    *numbers = shared.numbers;
    let Numbers { issued, unanswered } = numbers.clone();
    Outcome { issued, unanswered, began_ns, ended_ns, latency_us }
}

async fn connection(
    target: &Target,
    load: Load,
    run: u32,
    at: usize,
    began: Instant,
    mut stream: TcpStream,
    shared: &RefCell<Shared>,
) {
    let mut request = Request::new(&target.path, target.to_uid, load.size);
    let mut read = Vec::with_capacity(1024);
    let mut pace = load.pace.map(|rate| interval(Duration::from_secs_f64(load.connections as f64 / rate)));
    if let Some(rate) = load.pace {
        // The connections take turns.
        tokio::time::sleep(Duration::from_secs_f64(at as f64 / rate)).await;
    }
    loop {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        let number = {
            let numbers = &mut shared.borrow_mut().numbers;
            let enough = match load.until {
                Until::Time(time) => began.elapsed() >= time,
                Until::Count(count) => numbers.issued >= count,
            };
            if enough {
                return;
            }
            numbers.issued += 1;
            numbers.issued - 1
        };
        let sent = Instant::now();
        let bytes = request.bytes(Head::new(run, number), number % load.senders);
        let answered = timeout(PATIENCE, exchange(&mut stream, bytes, &mut read, target.answer)).await;
        if matches!(answered, Ok(Ok(true))) {
            let took = u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX);
            shared.borrow_mut().latencies_us.push(took);
        } else {
            shared.borrow_mut().numbers.unanswered.push(number);
            stream = connect(target, at).await;
        }
    }
}

/// The connection at this place among all.
async fn connect(target: &Target, at: usize) -> TcpStream {
    let port = target.ports[at % target.ports.len()];
    let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the server accepts connections");
    stream.set_nodelay(true).expect("a TCP connection");
    stream
}

/// One request and its answer; whether it is one that counts.
async fn exchange(stream: &mut TcpStream, request: &[u8], read: &mut Vec<u8>, answer: &str) -> io::Result<bool> {
    stream.write_all(request).await?;
    read.clear();
    loop {
        if stream.read_buf(read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !read.starts_with(b"HTTP/1.1 200 ") {
            return Ok(false);
        }
        // Our servers' answers are small, and end with this and nowhere else.
        if read.ends_with(answer.as_bytes()) {
            return Ok(true);
        }
    }
}
