//! Decides by its address who may call the callback: the [`Serve`] of the callback's listener.
//!
//! It finds the address that a request comes from, behind trusted proxies, too, and passes allowed requests to
//! [`super::callback`]. [`crate::http::listener`] handles connections and their limits.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use axum::body::Body;
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode};
use ipnet::{IpNet, Ipv4Net};
use tracing::debug;

use super::callback::{Callback, refusal};
use crate::http::listener::{Answered, Serve, TurnedAway, Visit};
use crate::observe::counters::Counters;

/// The addresses that may call.
pub struct Access {
    /// Networks that may call; empty means all.
    allow: Vec<IpNet>,
    /// Proxies whose `X-Forwarded-For` is believed.
    trusted_proxies: Vec<IpNet>,
}

impl Access {
    /// Networks that may call (none: all may), and proxies whose `X-Forwarded-For` is believed.
    #[must_use]
    pub fn new(allow: &[IpNet], trusted_proxies: &[IpNet]) -> Self {
        let plain = |nets: &[IpNet]| nets.iter().copied().map(unmapped).collect();
        Self { allow: plain(allow), trusted_proxies: plain(trusted_proxies) }
    }

    /// The address a request comes from: the peer's, or if the peer is a trusted proxy, the last one in `X-Forwarded-For` that
    /// is not a trusted proxy's. None if that cannot be read. Empty elements are skipped.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
        let lines = headers.get_all("x-forwarded-for").iter().rev();
        let hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii));
        let mut client = peer;
        for hop in hops.filter(|hop| !hop.is_empty()) {
            if !self.trusts(client) {
                break;
            }
            client = address(hop)?;
        }
        Some(client)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|net| net.contains(&address))
    }

    /// Whether the client that [`Self::client`] found may call.
    #[must_use]
    pub fn allows(&self, client: Option<IpAddr>) -> bool {
        self.allow.is_empty() || client.is_some_and(|client| self.allow.iter().any(|net| net.contains(&client)))
    }
}

/// Reads one element of `X-Forwarded-For`: an address. Some proxies add the port, or put IPv6 in brackets.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?;
    let bracketed = || hop.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok();
    let address = hop.parse().ok();
    let address = address.or_else(|| hop.parse().ok().map(|socket: std::net::SocketAddr| socket.ip()));
    address.or_else(|| bracketed().map(IpAddr::V6)).map(|address: IpAddr| address.to_canonical())
}

/// Turns a network of IPv4-mapped IPv6 addresses into an IPv4 network: addresses are compared as IPv4 wherever possible.
fn unmapped(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let v4 = v6.network().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    v4.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(net, IpNet::V4)
}

/// The callback, behind the check of the address.
pub struct Guarded {
    /// Answers the requests that are allowed.
    pub callback: Arc<Callback>,
    /// Who may call.
    pub access: Access,
    /// Counts what is refused.
    pub counters: Arc<Counters>,
}

impl Serve for Guarded {
    fn serve<'a>(&'a self, request: Request<Incoming>, visit: &'a Visit) -> BoxFuture<'a, Answered> {
        Box::pin(async move {
            let client = self.access.client(visit.peer, request.headers());
            if !self.access.allows(client) {
                self.callback.refused_address(&request, client);
                debug!(peer = %visit.peer, ?client, "refused a request: its address is not in callback.allow");
                return Ok(refusal(StatusCode::FORBIDDEN).map(Body::new));
            }
            let answer = self.callback.handle(request, client.unwrap_or(visit.peer), visit).await?;
            Ok(answer.map(Body::new))
        })
    }

    fn is_welcome(&self, peer: IpAddr) -> bool {
        self.access.allows(Some(peer)) || self.access.trusts(peer)
    }

    fn turned_away(&self, why: TurnedAway) {
        match why {
            TurnedAway::Malformed => self.counters.callback_rejected_malformed.add(),
            TurnedAway::Slow => self.counters.callback_rejected_slow.add(),
            TurnedAway::Crowded => self.counters.callback_rejected_crowded.add(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(allow: &[&str], trusted: &[&str]) -> Access {
        let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect::<Vec<_>>();
        Access::new(&nets(allow), &nets(trusted))
    }

    fn forwarded(values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-forwarded-for", hyper::header::HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Who a request from the trusted 127.0.0.1 with these header lines is from.
    fn behind_proxy(values: &[&[u8]]) -> Option<IpAddr> {
        access(&[], &["127.0.0.0/8", "10.0.0.0/8", "fd00::/8"]).client(ip("127.0.0.1"), &forwarded(values))
    }

    #[test]
    fn a_forwarded_address_is_believed_only_from_a_trusted_proxy() {
        let headers = forwarded(&[b"198.51.100.7"]);
        assert_eq!(access(&[], &[]).client(ip("127.0.0.1"), &headers), Some(ip("127.0.0.1")));
        assert_eq!(access(&[], &["10.0.0.0/8"]).client(ip("127.0.0.1"), &headers), Some(ip("127.0.0.1")));
        assert_eq!(access(&[], &["127.0.0.0/8"]).client(ip("127.0.0.1"), &headers), Some(ip("198.51.100.7")));
    }

    #[test]
    fn the_last_untrusted_address_counts_not_what_the_client_claims() {
        assert_eq!(behind_proxy(&[b"1.1.1.1, 198.51.100.7", b"10.0.0.2"]), Some(ip("198.51.100.7")));
        assert_eq!(behind_proxy(&[b"1.1.1.1", b"198.51.100.7, fd00::1"]), Some(ip("198.51.100.7")));
        assert_eq!(behind_proxy(&[b"10.0.0.2, 10.0.0.1"]), Some(ip("10.0.0.2")), "all of them proxies: the first");
        assert_eq!(behind_proxy(&[]), Some(ip("127.0.0.1")), "the proxy itself");
        assert_eq!(behind_proxy(&[b"198.51.100.7, ,", b"", b" , "]), Some(ip("198.51.100.7")));
    }

    #[test]
    fn what_cannot_be_read_is_nobody_not_the_proxy() {
        for unreadable in
            [&b"unknown"[..], b"nonsense", b"_hidden", b"1.2.3", b"999.1.1.1", b"\xff", b"[::1", b"for=1.1.1.1"]
        {
            assert_eq!(behind_proxy(&[unreadable]), None);
            let with_proxies = [b"1.1.1.1,", unreadable, b", 10.0.0.2"].concat();
            assert_eq!(behind_proxy(&[&with_proxies]), None);
            // What the client made up before its own address is never looked at.
            let claimed = [unreadable, b", 198.51.100.7"].concat();
            assert_eq!(behind_proxy(&[&claimed]), Some(ip("198.51.100.7")));
        }
        assert!(!access(&["127.0.0.0/8"], &["127.0.0.0/8"]).allows(None));
        assert!(access(&[], &["127.0.0.0/8"]).allows(None));
    }

    #[test]
    fn addresses_come_in_many_spellings() {
        for (written, meant) in [
            ("198.51.100.7:4711", "198.51.100.7"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("::ffff:198.51.100.7", "198.51.100.7"),
            ("[::ffff:198.51.100.7]:1", "198.51.100.7"),
        ] {
            assert_eq!(behind_proxy(&[written.as_bytes()]), Some(ip(meant)), "{written}");
        }
    }

    #[test]
    fn an_empty_list_allows_everyone() {
        assert!(access(&[], &[]).allows(Some(ip("198.51.100.7"))));
        assert!(!access(&["10.0.0.0/8"], &[]).allows(Some(ip("198.51.100.7"))));
    }

    #[test]
    fn mapped_networks_are_ipv4_networks() {
        let mapped = access(&["::ffff:10.0.0.0/104"], &["::ffff:127.0.0.1/128"]);
        assert!(mapped.allows(Some(ip("10.1.2.3"))) && !mapped.allows(Some(ip("11.1.2.3"))));
        assert!(mapped.trusts(ip("127.0.0.1")));
        assert!(!access(&["::/0"], &[]).allows(Some(ip("10.1.2.3"))), "all of IPv6 is not all of IPv4");
    }

    #[test]
    fn whom_nothing_can_be_answered_to_is_unwelcome() {
        let access = access(&["198.51.100.0/24"], &["10.0.0.0/8"]);
        let welcome = |peer: &str| access.allows(Some(ip(peer))) || access.trusts(ip(peer));
        assert!(welcome("198.51.100.7") && welcome("10.0.0.1") && !welcome("203.0.113.1"));
    }
}
