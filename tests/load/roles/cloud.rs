//! iLink, as little of it as calls need: it gives a token, and answers every call with 0, at once or after a delay. The
//! simulator keeps a journal, knows users and groups, and has nothing of a ceiling to measure a bridge against.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::helper;
use crate::message::Head;
use crate::recorder::Recorder;

const TOKEN: &str = r#"{"code":0,"access_token":"token","expires_in":7200}"#;
const DONE: &str = r#"{"code":0}"#;

pub(crate) fn run() {
    let recorder = Recorder::default();
    let delay_ms = Arc::new(AtomicU64::new(0));
    let (noting, delaying) = (recorder.clone(), Arc::clone(&delay_ms));
    let (bound, port) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            bound.send(listener.local_addr().expect("an address").port()).expect("our starter waits");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, noting.clone(), Arc::clone(&delaying)));
            }
        });
    });
    let port = port.recv().expect("a port");
    helper::serve(port, &recorder, |what, argument| match what {
        "delay" => {
            delay_ms.store(argument.parse().expect("milliseconds"), Ordering::Relaxed);
            "ok".to_owned()
        }
        _ => panic!("a cloud knows no {what:?}"),
    });
}

async fn serve(mut stream: TcpStream, recorder: Recorder, delay_ms: Arc<AtomicU64>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut read = Vec::with_capacity(64 * 1024);
    loop {
        let Some(end) = whole(&read) else {
            if stream.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let request = &read[..end];
        let reply = if request.starts_with(b"POST /get_access_token") {
            TOKEN
        } else {
            let content = find(request, br#""content":""#).and_then(|at| Head::read_base64(&request[at..]));
            if let Some(head) = content {
                recorder.note(head);
            }
            DONE
        };
        read.drain(..end);
        let delay = delay_ms.load(Ordering::Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        let response = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{reply}",
            reply.len()
        );
        stream.write_all(response.as_bytes()).await?;
    }
}

/// Where the first request ends, if it is whole.
fn whole(read: &[u8]) -> Option<usize> {
    let head = find(read, b"\r\n\r\n")?;
    let text = std::str::from_utf8(&read[..head]).ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let end = head + length.unwrap_or(0);
    (read.len() >= end).then_some(end)
}

/// Where the text that follows `what` begins.
fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what).map(|at| at + what.len())
}
