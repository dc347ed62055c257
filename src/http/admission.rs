//! Which connection is closed when there are more than the limit.
//!
//! iLink needs one or two connections. Strangers may open thousands, and no timeout tells a slow iLink from a slow
//! attacker. The secret does: a stranger can connect, wait and be refused, nothing else. When room is needed, the
//! connection of the lowest [`Standing`] is closed; among equals, one from the address that holds the most; among
//! those, the oldest.
//!
//! A request that has shown the secret is never cut for others. If every connection is busy with one, the new
//! connection is refused: iLink repeats what got no answer.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::os::lock;
use tokio_util::sync::CancellationToken;

/// So many addresses are remembered that have shown the secret: iLink has a few.
const FAMILIAR_AT_MOST: usize = 16;

/// How much a connection counts, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// Its address may not call at all.
    Unwelcome,
    /// Nothing is known of it.
    Stranger,
    /// Its address has shown the secret lately, over this connection or another one.
    Familiar,
    /// It has shown the secret itself.
    Proven,
    /// A request that showed the secret is under way.
    Busy,
}

/// What is known of one address.
struct Origin {
    held: AtomicUsize,
    familiar: AtomicBool,
}

/// One connection, as the others see it.
pub(super) struct Guest {
    number: u64,
    address: IpAddr,
    origin: Arc<Origin>,
    welcome: bool,
    proven: AtomicBool,
    busy: AtomicBool,
    /// Cancelled when it has to make way, and when all have to go.
    pub(super) cut: CancellationToken,
}

impl Guest {
    fn standing(&self) -> Standing {
        if self.is_busy() {
            Standing::Busy
        } else if self.proven.load(Ordering::Relaxed) {
            Standing::Proven
        } else if !self.welcome {
            Standing::Unwelcome
        } else if self.origin.familiar.load(Ordering::Relaxed) {
            Standing::Familiar
        } else {
            Standing::Stranger
        }
    }

    /// Whether a request that showed the secret is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    pub(super) fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Inside {
    /// By their numbers, which are the order of their arrival.
    guests: VecDeque<Arc<Guest>>,
    origins: HashMap<IpAddr, Arc<Origin>>,
    /// Addresses that have shown the secret, the latest last.
    familiar: VecDeque<IpAddr>,
    next: u64,
}

/// The connections of one listener.
pub(super) struct Crowd {
    room: usize,
    all: CancellationToken,
    inside: Mutex<Inside>,
}

impl Crowd {
    /// Room for so many; `all` cuts every one of them.
    pub(super) fn new(room: usize, all: CancellationToken) -> Self {
        Self { room, all, inside: Mutex::default() }
    }

    /// Takes a new connection in. If there is no room, another one is cut; none if all of those are busy.
    pub(super) fn enter(&self, peer: IpAddr, welcome: bool) -> Option<(Arc<Guest>, Entered)> {
        let mut inside = lock(&self.inside);
        let full = inside.guests.len() >= self.room;
        if full && !inside.make_way() {
            return None;
        }
        let entered = if full { Entered::MadeWay } else { Entered::HadRoom };
        let address = network(peer);
        let familiar = inside.familiar.contains(&address);
        let origin = inside
            .origins
            .entry(address)
            .or_insert_with(|| Arc::new(Origin { held: AtomicUsize::new(0), familiar: AtomicBool::new(familiar) }));
        origin.held.fetch_add(1, Ordering::Relaxed);
        let guest = Arc::new(Guest {
            origin: Arc::clone(origin),
            number: inside.next,
            address,
            welcome,
            proven: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            cut: self.all.child_token(),
        });
        inside.next += 1;
        inside.guests.push_back(Arc::clone(&guest));
        Some((guest, entered))
    }

    /// Cuts the connection that counts least; false if all are busy.
    pub(super) fn make_way(&self) -> bool {
        lock(&self.inside).make_way()
    }

    /// The connection is over.
    pub(super) fn leave(&self, guest: &Guest) {
        lock(&self.inside).remove(guest.number);
    }

    /// The connection has shown the secret.
    pub(super) fn prove(&self, guest: &Guest) {
        if guest.proven.swap(true, Ordering::Relaxed) {
            return;
        }
        guest.origin.familiar.store(true, Ordering::Relaxed);
        let mut inside = lock(&self.inside);
        inside.familiar.retain(|address| *address != guest.address);
        inside.familiar.push_back(guest.address);
        if inside.familiar.len() > FAMILIAR_AT_MOST {
            inside.familiar.pop_front();
        }
    }
}

/// How a newcomer got in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entered {
    HadRoom,
    /// Another one was cut for it.
    MadeWay,
}

impl Inside {
    fn make_way(&mut self) -> bool {
        let rank = |guest: &&Arc<Guest>| (guest.standing(), Reverse(guest.origin.held.load(Ordering::Relaxed)));
        // Of equals min_by_key takes the first, which is the oldest.
        let least = self.guests.iter().min_by_key(rank).filter(|guest| guest.standing() < Standing::Busy);
        let Some(number) = least.map(|guest| guest.number) else { return false };
        if let Some(guest) = self.remove(number) {
            guest.cut.cancel();
        }
        true
    }

    fn remove(&mut self, number: u64) -> Option<Arc<Guest>> {
        let at = self.guests.binary_search_by_key(&number, |guest| guest.number).ok()?;
        let guest = self.guests.remove(at)?;
        if guest.origin.held.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.origins.remove(&guest.address);
        }
        Some(guest)
    }
}

/// What counts as one address: whoever has an IPv6 address has a whole /64.
fn network(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn crowd(room: usize) -> Crowd {
        Crowd::new(room, CancellationToken::new())
    }

    fn enter(crowd: &Crowd, peer: &str) -> Arc<Guest> {
        crowd.enter(ip(peer), true).unwrap().0
    }

    fn cut(guests: &[&Arc<Guest>]) -> Vec<bool> {
        guests.iter().map(|guest| guest.cut.is_cancelled()).collect()
    }

    #[test]
    fn the_oldest_of_equals_makes_way_and_leaving_makes_room() {
        let crowd = crowd(2);
        let (a, b) = (enter(&crowd, "192.0.2.1"), enter(&crowd, "192.0.2.1"));
        let (c, how) = crowd.enter(ip("192.0.2.1"), true).unwrap();
        assert_eq!((cut(&[&a, &b, &c]), how), (vec![true, false, false], Entered::MadeWay));
        crowd.leave(&a);
        crowd.leave(&b);
        assert_eq!(crowd.enter(ip("192.0.2.1"), true).unwrap().1, Entered::HadRoom);
        assert!(!c.cut.is_cancelled());
    }

    #[test]
    fn the_address_that_holds_the_most_makes_way() {
        let crowd = crowd(3);
        let lonely = enter(&crowd, "198.51.100.7");
        let (first, second) = (enter(&crowd, "2001:db8::1"), enter(&crowd, "2001:db8::2"));
        let another = enter(&crowd, "203.0.113.1");
        assert_eq!(cut(&[&lonely, &first, &second, &another]), [false, true, false, false]);
    }

    #[test]
    fn who_has_shown_the_secret_stays_longer_and_its_address_too() {
        let crowd = crowd(4);
        let proven = enter(&crowd, "192.0.2.1");
        crowd.prove(&proven);
        let neighbour = enter(&crowd, "192.0.2.1");
        let unwelcome = crowd.enter(ip("192.0.2.9"), false).unwrap().0;
        let stranger = enter(&crowd, "203.0.113.1");
        let all = [&unwelcome, &stranger, &neighbour, &proven];
        for gone in 1..=all.len() {
            let new = enter(&crowd, "192.0.2.1");
            new.set_busy(true);
            let expected: Vec<_> = (0..all.len()).map(|n| n < gone).collect();
            assert_eq!(cut(&all), expected);
        }
        assert!(crowd.enter(ip("192.0.2.1"), true).is_none(), "all are busy");
        assert!(!crowd.make_way());
    }

    #[test]
    fn an_address_stays_familiar_after_it_left() {
        let crowd = crowd(2);
        let proven = enter(&crowd, "192.0.2.1");
        crowd.prove(&proven);
        crowd.leave(&proven);
        let back = enter(&crowd, "192.0.2.1");
        let strangers = [enter(&crowd, "203.0.113.1"), enter(&crowd, "203.0.113.2")];
        assert_eq!(cut(&[&back, &strangers[0], &strangers[1]]), [false, true, false]);
    }

    #[test]
    fn all_can_be_cut_the_busy_ones_too() {
        let crowd = crowd(2);
        let (idle, busy) = (enter(&crowd, "192.0.2.1"), enter(&crowd, "192.0.2.2"));
        busy.set_busy(true);
        crowd.all.cancel();
        crowd.leave(&idle);
        let late = enter(&crowd, "192.0.2.3");
        assert_eq!(cut(&[&idle, &busy, &late]), [true; 3]);
    }

    #[test]
    fn only_so_many_addresses_are_remembered() {
        let crowd = crowd(100);
        for n in 0..100 {
            let guest = enter(&crowd, &format!("192.0.2.{n}"));
            crowd.prove(&guest);
            crowd.leave(&guest);
        }
        let inside = lock(&crowd.inside);
        assert_eq!((inside.familiar.len(), inside.origins.len()), (FAMILIAR_AT_MOST, 0));
        assert_eq!(inside.familiar.back(), Some(&ip("192.0.2.99")));
    }
}
