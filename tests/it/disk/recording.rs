//! What a process did to its files and sockets, in order: `recorder.c`'s records.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Identifies one socket or open file: process and descriptor.
pub(crate) type Descriptor = (u32, u32);

/// One step of the recorded history. Names are relative to the watched directory, which itself is "".
#[derive(Debug)]
pub(crate) enum Event {
    Opened {
        inode: u64,
        name: String,
        is_new: bool,
    },
    Written {
        inode: u64,
        offset: usize,
        data: Vec<u8>,
    },
    Truncated {
        inode: u64,
        length: usize,
    },
    SyncBegan {
        by: Descriptor,
    },
    Synced {
        by: Descriptor,
        inode: u64,
        directory: bool,
    },
    /// What was not synced never will be: the kernel counts it as written.
    SyncFailed {
        inode: u64,
        directory: bool,
    },
    Renamed {
        from: String,
        to: String,
    },
    Unlinked {
        name: String,
    },
    /// A send that sent nothing.
    Nothing,
    SocketOpened(Descriptor),
    Received(Descriptor, Vec<u8>),
    Sent(Descriptor, Vec<u8>),
    SocketClosed(Descriptor),
}

/// The recorder, compiled once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = include_str!("recorder.c");
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let name = format!("recorder-{:08x}", crc32fast::hash(source.as_bytes()));
        let library = dir.join(format!("{name}.so"));
        if !library.exists() {
            let (code, made) = (dir.join(format!("{name}-{}.c", std::process::id())), dir.join(format!("{name}.tmp")));
            fs::write(&code, source).expect("cargo's directory for tests can be written");
            let compiled = Command::new("cc")
                .args(["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O1", "-o"])
                .arg(&made)
                .arg(&code)
                .args(["-ldl", "-lpthread"])
                .output()
                .expect("a C compiler is needed, as for SQLite: apt-get install gcc libc6-dev");
            assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
            fs::rename(made, &library).expect("beside it");
            let _ = fs::remove_file(code);
        }
        library
    })
}

/// The environment of a process that is to be recorded: what it does below `root` goes to `log`, and fails as `fault` says.
pub(crate) fn environment(root: &Path, log: Option<&Path>, fault: Option<&Path>) -> Vec<(&'static str, String)> {
    let text = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let mut environment = vec![("LD_PRELOAD", text(library())), ("RECORD_ROOT", text(root))];
    environment.extend(log.map(|log| ("RECORD_LOG", text(log))));
    environment.extend(fault.map(|fault| ("RECORD_FAULT", text(fault))));
    environment
}

/// The history in `log` of what was done below `root`.
pub(crate) fn read(log: &Path, root: &Path) -> Vec<Event> {
    let bytes = fs::read(log).expect("a recording");
    let mut left = &bytes[..];
    let mut events = Vec::new();
    // What is sent counts as sent from the moment at which the process decided to.
    let mut sending = HashMap::new();
    while !left.is_empty() {
        let (header, rest) = left.split_at(32);
        let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
        let (payload, rest) = rest.split_at(usize::try_from(u32_at(12)).unwrap());
        left = rest;
        let (directory, is_new, by) = (header[1] != 0, header[2] != 0, (u32_at(4), u32_at(8)));
        let (inode, a) = (u64_at(16), usize::try_from(u64_at(24)).unwrap());
        let name = |bytes: &[u8]| {
            let path = Path::new(std::str::from_utf8(bytes).unwrap());
            path.strip_prefix(root).expect("below the root").to_str().unwrap().to_owned()
        };
        events.push(match header[0] {
            b'O' => Event::Opened { inode, name: name(payload), is_new },
            b'W' => Event::Written { inode, offset: a, data: payload.to_vec() },
            b'T' => Event::Truncated { inode, length: a },
            b'B' => Event::SyncBegan { by },
            b'S' => Event::Synced { by, inode, directory },
            b'F' => Event::SyncFailed { inode, directory },
            b'R' => {
                let middle = payload.iter().position(|byte| *byte == 0).expect("two names");
                Event::Renamed { from: name(&payload[..middle]), to: name(&payload[middle + 1..]) }
            }
            b'U' => Event::Unlinked { name: name(payload) },
            b'o' => Event::SocketOpened(by),
            b'r' => Event::Received(by, payload.to_vec()),
            b'p' => {
                sending.insert(by, events.len());
                Event::Nothing
            }
            b's' => {
                let at: usize = sending[&by];
                match &mut events[at] {
                    Event::Sent(_, data) => data.extend_from_slice(payload),
                    nothing => *nothing = Event::Sent(by, payload.to_vec()),
                }
                continue;
            }
            b'c' => Event::SocketClosed(by),
            other => panic!("record {other}"),
        });
    }
    events
}
