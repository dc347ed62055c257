//! A subscriber that hears everything and notes it. Its session outlives the broker's restarts.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use crate::helper;
use crate::message::Head;
use crate::mqtt::Client;
use crate::recorder::Recorder;

pub(crate) fn run(port: u16, filters: &[String]) {
    let recorder = Recorder::default();
    let (ready, is_ready) = mpsc::channel();
    let (into, filters) = (recorder.clone(), filters.to_vec());
    std::thread::spawn(move || {
        loop {
            // The broker is away: until it is back.
            let _ = hear(port, &filters, &into, &ready);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    is_ready.recv().expect("the broker answers");
    helper::serve(0, &recorder, |what, _| panic!("a subscriber knows no {what:?}"));
}

fn hear(port: u16, filters: &[String], into: &Recorder, ready: &mpsc::Sender<()>) -> io::Result<()> {
    let mut client = Client::connect(port, "load-subscriber", true)?;
    client.subscribe(filters)?;
    let _ = ready.send(());
    loop {
        client.hear(|payload| {
            if let Some(head) = Head::read(payload) {
                into.note(head);
            }
        })?;
    }
}
