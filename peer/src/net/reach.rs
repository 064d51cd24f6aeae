//! Where other machines reach a socket of this one.
//!
//! Invariant: what is published is never the unspecified address, and loopback only when this machine has nothing else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use super::limits::PEER_ADDRESSES;

/// Where to reach a socket bound to `bound`: there, or at each of this machine's addresses when it listens on all.
/// The first is the one that this machine uses towards the internet.
#[must_use]
pub fn published(bound: SocketAddr) -> Vec<SocketAddr> {
    let ips = if bound.ip().is_unspecified() { of_all_interfaces(bound.is_ipv4()) } else { vec![bound.ip()] };
    ips.into_iter().map(|ip| SocketAddr::new(ip, bound.port())).collect()
}

/// The addresses a socket has that listens on all interfaces; an IPv6 one may not carry IPv4.
fn of_all_interfaces(only_ipv4: bool) -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(%error, "this machine's addresses are unknown");
        Vec::new()
    });
    let ips = interfaces.iter().map(if_addrs::Interface::ip).filter(|ip| ip.is_ipv4() == only_ipv4);
    let mut ips = outward(ips.collect());
    if let Some(first) = towards_the_internet(only_ipv4) {
        // Those of bridges to virtual machines and containers come behind.
        ips.sort_by_key(|ip| *ip != first);
    }
    ips.truncate(PEER_ADDRESSES);
    if ips.is_empty() {
        ips.push(if only_ipv4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    ips
}

/// The address from which packets would leave towards the internet.
fn towards_the_internet(only_ipv4: bool) -> Option<IpAddr> {
    // RFC 5737 and RFC 3849: nobody has these, so only the default route leads there.
    towards(match only_ipv4 {
        true => Ipv4Addr::new(198, 51, 100, 1).into(),
        false => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    })
}

/// The address from which this machine would send to `to`, if it knows a way. Connecting a UDP socket sends nothing.
#[must_use]
pub fn towards(to: IpAddr) -> Option<IpAddr> {
    let from: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(from, 0)).ok()?;
    socket.connect(SocketAddr::new(to, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Those that lead here from another machine.
fn outward(mut ips: Vec<IpAddr>) -> Vec<IpAddr> {
    ips.retain(|ip| is_outward(*ip));
    ips.sort_unstable();
    ips.dedup();
    ips
}

/// Whether a socket at `ip` can be reached from another machine. A link-local address means nothing without the name
/// of an interface, which differs on each machine.
#[must_use]
pub fn is_outward(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() && !link_local
}

#[cfg(test)]
mod tests {
    use super::{is_outward, outward, published, towards};

    #[test]
    fn a_socket_of_one_address_is_published_as_it_is() {
        for text in ["127.0.0.1:4", "192.0.2.7:4", "[::1]:4"] {
            let bound = text.parse().unwrap();
            assert_eq!(published(bound), [bound]);
        }
    }

    #[test]
    fn a_socket_of_all_interfaces_is_published_without_the_unspecified_address() {
        for text in ["0.0.0.0:4", "[::]:4"] {
            let all = published(text.parse().unwrap());
            assert!(!all.is_empty());
            assert!(all.iter().all(|at| at.port() == 4 && !at.ip().is_unspecified()), "{all:?}");
            let local = all.iter().filter(|at| at.ip().is_loopback()).count();
            assert!(local == 0 || all.len() == 1, "{all:?}");
        }
    }

    #[test]
    fn this_machine_reaches_itself_from_itself() {
        let own = "127.0.0.1".parse().unwrap();
        assert_eq!(towards(own), Some(own));
        for at in published("0.0.0.0:4".parse().unwrap()) {
            assert_eq!(towards(at.ip()), Some(at.ip()));
        }
    }

    #[test]
    fn loopback_and_link_local_addresses_do_not_lead_here_from_elsewhere() {
        let ips = ["127.0.0.2", "192.0.2.7", "169.254.1.1", "fe80::1", "fd00::2", "::1", "0.0.0.0", "192.0.2.7"];
        let outward = outward(ips.map(|ip| ip.parse().unwrap()).to_vec());
        assert_eq!(outward, ["192.0.2.7", "fd00::2"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap()));
        assert!(outward.into_iter().all(is_outward));
    }
}
