//! A disk that loses power: what was synced is there, of the rest whatever a seed says.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use super::recording::{Descriptor, Event};

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;

/// splitmix64: the same seed gives the same damage.
#[derive(Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of 0..n.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.roll() % u64::try_from(n.max(1)).unwrap()).unwrap()
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.roll() & 1 == 1
    }
}

/// What becomes of operations that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// None of them happened.
    Lost,
    /// All of them did.
    Kept,
    /// Each did or did not.
    Each,
    /// Each sector is as it was after any of them: what a page cache written back at any moment leaves.
    Sectors,
    /// Each sector of each write is there or not, whatever came after.
    Shreds,
    /// The first few happened, the last of them torn.
    Prefix,
}

pub(crate) const FATES: [Fate; 6] = [Fate::Lost, Fate::Kept, Fate::Each, Fate::Sectors, Fate::Shreds, Fate::Prefix];

#[derive(Clone)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Truncate(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Truncate(length) => content.resize(*length, 0),
            Self::Write { offset, data } => put(content, *offset, data),
        }
    }

    /// The sectors a write touches.
    fn sectors(&self) -> std::ops::Range<usize> {
        match self {
            Self::Truncate(_) => 0..0,
            Self::Write { offset, data } => offset / SECTOR..(offset + data.len()).div_ceil(SECTOR),
        }
    }

    /// Of a write, only what is in this sector.
    fn apply_sector(&self, sector: usize, content: &mut Vec<u8>) {
        let Self::Write { offset, data } = self else { return };
        let from = (sector * SECTOR).max(*offset);
        let to = ((sector + 1) * SECTOR).min(offset + data.len());
        put(content, from, &data[from - offset..to - offset]);
    }
}

fn put(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if content.len() < offset + data.len() {
        content.resize(offset + data.len(), 0);
    }
    content[offset..offset + data.len()].copy_from_slice(data);
}

/// Something not synced yet, with its place among all operations.
#[derive(Clone)]
struct Pending<T> {
    number: usize,
    what: T,
}

/// A file: what is on the disk for certain, and what came after.
#[derive(Clone, Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<Pending<Change>>,
    /// As processes see it, for as long as there is power.
    cached: Vec<u8>,
}

/// Names given to files or taken from them by one step.
type Naming = Vec<(String, Option<usize>)>;

/// The disk of one directory.
#[derive(Clone, Default)]
pub(crate) struct Platter {
    files: Vec<File>,
    by_inode: HashMap<u64, usize>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<Pending<Naming>>,
    /// Where each sync under way began.
    syncing: HashMap<Descriptor, usize>,
    number: usize,
    /// Syncs that were done.
    pub(crate) syncs: usize,
}

impl Platter {
    /// Does what the process did. With `lies`, syncs change nothing: a disk that says yes and does not do it.
    pub(crate) fn apply(&mut self, event: &Event, lies: bool) {
        self.number += 1;
        match event {
            Event::Opened { inode, name, is_new: true } => {
                let id = self.files.len();
                self.files.push(File::default());
                self.by_inode.insert(*inode, id);
                self.name(vec![(name.clone(), Some(id))]);
            }
            Event::Written { inode, offset, data } => {
                self.change(*inode, Change::Write { offset: *offset, data: data.clone() });
            }
            Event::Truncated { inode, length } => self.change(*inode, Change::Truncate(*length)),
            Event::SyncBegan { by } => {
                self.syncing.insert(*by, self.number);
            }
            Event::Synced { by, inode, directory } => {
                let began = self.syncing.remove(by).expect("a sync that began");
                if lies {
                    return;
                }
                self.syncs += 1;
                if *directory {
                    self.sync_names(began);
                } else {
                    self.sync_file(*inode, began);
                }
            }
            // A directory's names are the file system's own, which does not forget them.
            Event::SyncFailed { inode, directory: false } => {
                let id = self.by_inode[inode];
                self.files[id].pending.clear();
            }
            Event::Renamed { from, to } => {
                let file = self.names.get(from).copied();
                assert!(file.is_some() || from.is_empty(), "an unknown file was renamed: {from}");
                self.name(vec![(from.clone(), None), (to.clone(), file)]);
            }
            Event::Unlinked { name } => self.name(vec![(name.clone(), None)]),
            _ => {}
        }
    }

    fn name(&mut self, naming: Naming) {
        rename(&mut self.names, &naming);
        self.pending_names.push(Pending { number: self.number, what: naming });
    }

    fn change(&mut self, inode: u64, change: Change) {
        let id = self.by_inode[&inode];
        change.apply(&mut self.files[id].cached);
        self.files[id].pending.push(Pending { number: self.number, what: change });
    }

    fn sync_file(&mut self, inode: u64, began: usize) {
        let id = self.by_inode[&inode];
        let File { durable, pending, .. } = &mut self.files[id];
        let done = pending.iter().take_while(|change| change.number < began).count();
        for change in pending.drain(..done) {
            change.what.apply(durable);
        }
    }

    fn sync_names(&mut self, began: usize) {
        let done = self.pending_names.iter().take_while(|naming| naming.number < began).count();
        for naming in self.pending_names.drain(..done) {
            rename(&mut self.durable_names, &naming.what);
        }
    }

    /// The directory as the process sees it.
    pub(crate) fn now(&self) -> BTreeMap<String, Vec<u8>> {
        let content = |(name, id): (&String, &usize)| (name.clone(), self.files[*id].cached.clone());
        self.names.iter().map(content).collect()
    }

    /// The directory after a power cut now.
    pub(crate) fn cut(&self, fate: Fate, dice: &mut Dice) -> BTreeMap<String, Vec<u8>> {
        let last = self.number - dice.below(64.min(self.number + 1));
        let mut names = self.durable_names.clone();
        for naming in &self.pending_names {
            let happened = match fate {
                Fate::Lost => false,
                Fate::Kept => true,
                Fate::Prefix => naming.number <= last,
                Fate::Each | Fate::Sectors | Fate::Shreds => dice.coin(),
            };
            if happened {
                rename(&mut names, &naming.what);
            }
        }
        let content = |(name, id): (String, usize)| {
            let content = self.files[id].cut(fate, last, dice);
            // Its index of the log is SQLite's shared memory, and written through mmap: anything may be in it.
            let is_index = name.ends_with("-shm") && dice.coin();
            let content =
                if is_index { content.iter().map(|_| dice.roll().to_le_bytes()[0]).collect() } else { content };
            (name, content)
        };
        names.into_iter().map(content).collect()
    }
}

impl File {
    fn cut(&self, fate: Fate, last: usize, dice: &mut Dice) -> Vec<u8> {
        let mut content = self.durable.clone();
        match fate {
            Fate::Lost => {}
            Fate::Kept => self.pending.iter().for_each(|change| change.what.apply(&mut content)),
            Fate::Each => {
                for change in &self.pending {
                    if dice.coin() {
                        change.what.apply(&mut content);
                    }
                }
            }
            Fate::Sectors => self.written_back(&mut content, dice),
            Fate::Shreds => {
                for change in &self.pending {
                    match &change.what {
                        Change::Truncate(_) if dice.coin() => change.what.apply(&mut content),
                        Change::Truncate(_) => {}
                        write @ Change::Write { .. } => {
                            for sector in write.sectors().filter(|_| dice.coin()).collect::<Vec<_>>() {
                                write.apply_sector(sector, &mut content);
                            }
                        }
                    }
                }
            }
            Fate::Prefix => {
                let mut happened = self.pending.iter().take_while(|change| change.number <= last).peekable();
                while let Some(change) = happened.next() {
                    if happened.peek().is_some() || matches!(change.what, Change::Truncate(_)) {
                        change.what.apply(&mut content);
                    } else {
                        for sector in change.what.sectors().filter(|_| dice.coin()).collect::<Vec<_>>() {
                            change.what.apply_sector(sector, &mut content);
                        }
                    }
                }
            }
        }
        content
    }

    /// Each sector that was changed is as it was at some moment since the sync; so is the length.
    fn written_back(&self, content: &mut Vec<u8>, dice: &mut Dice) {
        let moments = self.pending.len() + 1;
        let mut cache = self.durable.clone();
        // The sectors that are written back after each change, and then not again.
        let mut chosen: BTreeMap<usize, usize> = BTreeMap::new();
        for change in &self.pending {
            for sector in change.what.sectors() {
                chosen.entry(sector).or_insert_with(|| dice.below(moments));
            }
        }
        let mut by_moment: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (sector, moment) in chosen {
            by_moment.entry(moment).or_default().push(sector);
        }
        let length_at = dice.below(moments);
        let mut length = cache.len();
        for (moment, change) in (1..).zip(&self.pending) {
            change.what.apply(&mut cache);
            if moment == length_at {
                length = cache.len();
            }
            for sector in by_moment.get(&moment).into_iter().flatten() {
                let (from, to) = (sector * SECTOR, ((sector + 1) * SECTOR).min(cache.len()));
                if from < to {
                    put(content, from, &cache[from..to]);
                }
            }
        }
        content.resize(length, 0);
    }
}

fn rename(names: &mut BTreeMap<String, usize>, naming: &Naming) {
    for (name, file) in naming {
        match file {
            Some(file) => names.insert(name.clone(), *file),
            None => names.remove(name),
        };
    }
}

/// Puts a directory there.
pub(crate) fn write_out(files: &BTreeMap<String, Vec<u8>>, dir: &Path) {
    for (name, content) in files {
        fs::write(dir.join(name), content).unwrap();
    }
}
