//! Bounds the memory that pushes take, from before a body is read until the spool does not need its row any more.
//!
//! The sender of a push may leave long before the disk has stored it. So its place in the room belongs to the bytes and not to
//! the request: it goes with the body into the row, and is given back when the last holder of the row drops it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use ulid::Ulid;

use super::record::Record;
use crate::os::clock::{Stamp, boot_now};

/// The most bytes of memory for pushes that are being read and stored.
const BYTES_AT_MOST: usize = 64 << 20;
/// What a push takes beside its bytes, in KiB.
const BESIDE: u32 = 2;

/// The room for all pushes, counted in KiB.
pub(super) struct Room(Arc<Semaphore>);

/// A part of the room, for one push.
pub(super) struct Place {
    permit: OwnedSemaphorePermit,
    /// When it was asked for, by the boot-time clock.
    since: Duration,
}

impl Room {
    /// A room that is large enough for one body of `max_body` bytes.
    pub(super) fn new(max_body: usize) -> Self {
        Self(Arc::new(Semaphore::new((BYTES_AT_MOST / 1024).max(cost(max_body) as usize))))
    }

    /// A place for so many bytes, if there is one now.
    pub(super) fn try_take(&self, bytes: usize) -> Option<Place> {
        let permit = Arc::clone(&self.0).try_acquire_many_owned(cost(bytes)).ok()?;
        Some(Place { permit, since: boot_now() })
    }

    /// Waits for a place for so many bytes. None only if the room is closed, which it never is.
    pub(super) async fn take(&self, bytes: usize) -> Option<Place> {
        let since = boot_now();
        let permit = Arc::clone(&self.0).acquire_many_owned(cost(bytes)).await.ok()?;
        Some(Place { permit, since })
    }
}

/// A push's body in its place.
pub struct Held {
    bytes: Bytes,
    place: Place,
}

impl Held {
    /// Puts the body into its place, and gives back what it does not need of it.
    pub(super) fn new(bytes: Bytes, mut place: Place) -> Self {
        let needed = cost(bytes.len()) as usize;
        drop(place.permit.split(place.permit.num_permits().saturating_sub(needed)));
        Self { bytes, place }
    }

    /// Replaces the body by other bytes of the same push. None if they are larger and there is no room for them.
    pub(super) fn exchanged(self, bytes: Bytes, room: &Room) -> Option<Self> {
        let Self { mut place, .. } = self;
        let more = (cost(bytes.len()) as usize).saturating_sub(place.permit.num_permits());
        let more = Arc::clone(&room.0).try_acquire_many_owned(u32::try_from(more).ok()?).ok()?;
        place.permit.merge(more);
        Some(Self::new(bytes, place))
    }

    /// The body.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// When its sender began to wait, by the boot-time clock.
    pub(super) fn since(&self) -> Duration {
        self.place.since
    }

    /// The push, accepted now, as a row of the spool.
    pub(super) fn into_row(self) -> NewRow {
        let Self { bytes: body, place } = self;
        let (id, at) = (Ulid::generate().to_bytes(), Stamp::now());
        let row = Record::Push { id, at, body }.encode();
        NewRow { id, at, bytes: Bytes::from_owner(Row { bytes: row, _place: place }) }
    }
}

/// A push as a row of the spool.
pub(super) struct NewRow {
    /// The bridge's id for it.
    pub(super) id: [u8; 16],
    /// When it was accepted.
    pub(super) at: Stamp,
    /// The whole row, with its place.
    pub(super) bytes: Bytes,
}

struct Row {
    bytes: Vec<u8>,
    _place: Place,
}

impl AsRef<[u8]> for Row {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What so many bytes cost, in KiB. The allocator rounds large sizes up by as much as an eighth.
fn cost(bytes: usize) -> u32 {
    u32::try_from((bytes + bytes / 8).div_ceil(1024)).unwrap_or(u32::MAX >> 4).saturating_add(BESIDE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kib(room: &Room) -> usize {
        room.0.available_permits()
    }

    #[test]
    fn a_place_lasts_as_long_as_the_row() {
        let room = Room::new(0);
        let all = kib(&room);
        let held = Held::new(Bytes::from_static(b"{}"), room.try_take(1 << 20).unwrap());
        assert_eq!(all - kib(&room), 3, "what was taken in advance is given back");
        let row = held.into_row().bytes;
        let part = row.slice(1..2);
        drop(row);
        assert_eq!(all - kib(&room), 3);
        drop(part);
        assert_eq!(kib(&room), all);
    }

    #[test]
    fn other_bytes_take_another_place() {
        let room = Room::new(0);
        let all = kib(&room);
        let held = Held::new(Bytes::from_static(b"packed"), room.try_take(6).unwrap());
        let held = held.exchanged(vec![0; 10 << 10].into(), &room).unwrap();
        assert_eq!((all - kib(&room), held.bytes().len()), (14, 10 << 10));
        let held = held.exchanged(Bytes::new(), &room).unwrap();
        assert_eq!(all - kib(&room), 2);
        let others: Vec<_> = std::iter::from_fn(|| room.try_take(1 << 20)).collect();
        assert!(held.exchanged(vec![0; 2 << 20].into(), &room).is_none());
        drop(others);
        assert_eq!(kib(&room), all);
    }

    #[test]
    fn the_largest_body_has_room() {
        let room = Room::new(100 << 20);
        assert!(room.try_take((100 << 20) + 1024).is_none());
        assert!(room.try_take(100 << 20).is_some());
    }
}
