//! Which port a socket takes: the one asked for, the one it had before, or a fresh one.
//!
//! Invariant: a port that the user named is taken or refused, never replaced; a port that is only remembered gives way
//! to a fresh one when another program has it.

use std::net::{IpAddr, SocketAddr};

use super::limits::PORT_DRAWS;
use super::{NetError, probe_tcp, probe_udp};

/// Fresh ports lie below the range from which systems draw those of outgoing connections (Linux 32,768 up, RFC 6335
/// 49,152 up), so that no passing connection occupies them while the node is down.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// How a socket is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// On this port or not at all.
    Exactly(u16),
    /// On this one if it is free.
    Rather(u16),
    /// On any.
    Any,
}

impl Wish {
    /// What the user asked for, zero being nothing, before what is remembered.
    #[must_use]
    pub fn new(asked: u16, remembered: Option<u16>) -> Self {
        match (asked, remembered) {
            (0, None | Some(0)) => Self::Any,
            (0, Some(port)) => Self::Rather(port),
            (port, _) => Self::Exactly(port),
        }
    }
}

/// What the port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// QUIC.
    Udp,
    /// HTTP.
    Tcp,
    /// QUIC and TCP on the same number.
    Both,
}

impl Carries {
    fn probe(self, at: SocketAddr) -> Result<(), NetError> {
        if self != Self::Tcp {
            probe_udp(at)?;
        }
        if self != Self::Udp {
            probe_tcp(at)?;
        }
        Ok(())
    }
}

/// Draws ports for one address, each once.
#[derive(Debug)]
pub struct Ports {
    ip: IpAddr,
    given: Vec<u16>,
}

impl Ports {
    /// Ports of `ip`.
    #[must_use]
    pub const fn new(ip: IpAddr) -> Self {
        Self { ip, given: Vec::new() }
    }

    /// A port that is free now.
    ///
    /// # Errors
    /// [`NetError::PortInUse`] for one asked for; [`NetError::Listen`] when the address is not this machine's or the
    /// system gives none.
    pub fn choose(&mut self, wish: Wish, carries: Carries) -> Result<u16, NetError> {
        let port = match wish {
            Wish::Exactly(port) => self.free(port, carries)?,
            Wish::Rather(port) => match self.free(port, carries) {
                Err(NetError::PortInUse { .. }) => self.draw(carries)?,
                other => other?,
            },
            Wish::Any => self.draw(carries)?,
        };
        self.given.push(port);
        Ok(port)
    }

    fn free(&self, port: u16, carries: Carries) -> Result<u16, NetError> {
        let addr = SocketAddr::new(self.ip, port);
        if self.given.contains(&port) {
            return Err(NetError::PortInUse { addr });
        }
        carries.probe(addr).map(|()| port)
    }

    fn draw(&self, carries: Carries) -> Result<u16, NetError> {
        let mut refused = NetError::PortInUse { addr: SocketAddr::new(self.ip, 0) };
        for _ in 0..PORT_DRAWS {
            let drawn = getrandom::u32().map_err(NetError::setup)? % u32::from(COUNT);
            let port = FIRST + u16::try_from(drawn).map_err(NetError::setup)?;
            match self.free(port, carries) {
                Ok(port) => return Ok(port),
                Err(error @ NetError::PortInUse { .. }) => refused = error,
                Err(error) => return Err(error),
            }
        }
        Err(refused)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

    use super::{Carries, Ports, Wish};
    use crate::net::NetError;

    fn ports() -> Ports {
        Ports::new(Ipv4Addr::LOCALHOST.into())
    }

    #[test]
    fn a_named_port_is_taken_or_refused_and_a_remembered_one_gives_way() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        for (addr, carries) in [(udp.local_addr().unwrap(), Carries::Udp), (tcp.local_addr().unwrap(), Carries::Both)] {
            let refused = ports().choose(Wish::Exactly(addr.port()), carries);
            assert_eq!(refused, Err(NetError::PortInUse { addr }));
            let chosen = ports().choose(Wish::Rather(addr.port()), carries).unwrap();
            assert_ne!(chosen, addr.port());
        }
    }

    #[test]
    fn a_free_remembered_port_is_kept_and_none_is_given_twice() {
        let port = ports().choose(Wish::Any, Carries::Both).unwrap();
        let mut ports = ports();
        assert_eq!(ports.choose(Wish::Rather(port), Carries::Both), Ok(port));
        assert_ne!(ports.choose(Wish::Rather(port), Carries::Both).unwrap(), port);
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        assert_eq!(ports.choose(Wish::Exactly(port), Carries::Both), Err(NetError::PortInUse { addr }));
    }

    #[test]
    fn what_was_asked_goes_before_what_is_remembered() {
        assert_eq!(Wish::new(0, None), Wish::Any);
        assert_eq!(Wish::new(0, Some(5)), Wish::Rather(5));
        assert_eq!(Wish::new(4, Some(5)), Wish::Exactly(4));
    }

    #[test]
    fn an_address_of_another_machine_is_refused_as_such() {
        // RFC 5737: nobody has it.
        let refused = Ports::new("203.0.113.9".parse().unwrap()).choose(Wish::Any, Carries::Both);
        assert!(matches!(refused, Err(NetError::Listen { .. })), "{refused:?}");
    }
}
