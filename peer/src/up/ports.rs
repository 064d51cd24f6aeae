//! The ports a node had, kept in its folder so that others find it where it was.
//!
//! Invariant: a kept port that another program has meanwhile is replaced, and people hear of it; one that the user
//! asked for is never replaced.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::home::{Home, HomeError};
use crate::net::NetError;
use crate::net::ports::{Carries, Ports, Wish};

/// Where they are kept.
const FILE: &str = "ports.json";

/// A socket of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Socket {
    /// libp2p.
    Control,
    /// iroh.
    Data,
    /// The fast lane.
    Lane,
    /// The settlement chain, if this node serves one.
    Chain,
}

impl Socket {
    const fn name(self) -> &'static str {
        match self {
            Self::Control => "the control plane",
            Self::Data => "the data plane",
            Self::Lane => "the fast lane",
            Self::Chain => "the settlement chain",
        }
    }

    const fn carries(self) -> Carries {
        match self {
            Self::Control => Carries::Both,
            Self::Data | Self::Lane => Carries::Udp,
            Self::Chain => Carries::Tcp,
        }
    }
}

/// The ports a node had last, and what people should hear about the new ones.
#[derive(Debug)]
pub(super) struct KeptPorts {
    ports: BTreeMap<Socket, u16>,
    pub(super) notes: Vec<String>,
}

impl KeptPorts {
    pub(super) fn load(home: &Home) -> Result<Self, HomeError> {
        let mut notes = Vec::new();
        let ports = load_or_begin(home, FILE, &mut notes)?;
        Ok(Self { ports, notes })
    }

    pub(super) fn save(&self, home: &Home) -> Result<(), HomeError> {
        home.save(FILE, &self.ports)
    }

    /// The port asked for, zero being none, else the kept one, else a fresh one.
    pub(super) fn choose(&mut self, ports: &mut Ports, socket: Socket, asked: u16) -> Result<u16, NetError> {
        let wish = Wish::new(asked, self.ports.get(&socket).copied());
        let port = ports.choose(wish, socket.carries())?;
        if let Wish::Rather(before) = wish
            && before != port
        {
            let what = socket.name();
            tracing::warn!(before, port, what, "a kept port is in use");
            self.notes
                .push(format!("! port {before} of {what} is in use by another program: it is {port} from now on"));
        }
        self.ports.insert(socket, port);
        Ok(port)
    }
}

/// A file of ours that the node can do without: a damaged one is begun anew, and people hear of it.
pub(super) fn load_or_begin<T: DeserializeOwned + Default>(
    home: &Home,
    name: &str,
    notes: &mut Vec<String>,
) -> Result<T, HomeError> {
    match home.load(name) {
        Ok(value) => Ok(value.unwrap_or_default()),
        Err(error @ HomeError::Damaged { .. }) => {
            notes.push(format!("! {error}; it is begun anew"));
            Ok(T::default())
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::{KeptPorts, Socket};
    use crate::home::Home;
    use crate::net::ports::Ports;

    #[test]
    fn ports_are_kept_over_restarts_and_one_that_is_taken_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let draw = |kept: &mut KeptPorts| {
            let mut ports = Ports::new(Ipv4Addr::LOCALHOST.into());
            [Socket::Control, Socket::Lane].map(|socket| kept.choose(&mut ports, socket, 0).unwrap())
        };
        let mut kept = KeptPorts::load(&home).unwrap();
        let [control, lane] = draw(&mut kept);
        kept.save(&home).unwrap();
        let mut kept = KeptPorts::load(&home).unwrap();
        assert_eq!(draw(&mut kept), [control, lane]);
        assert!(kept.notes.is_empty());
        let _taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, lane)).unwrap();
        let mut kept = KeptPorts::load(&home).unwrap();
        let [same, other] = draw(&mut kept);
        assert!(same == control && other != lane);
        assert!(kept.notes[0].contains("fast lane") && kept.notes[0].contains(&lane.to_string()), "{:?}", kept.notes);
    }

    #[test]
    fn a_damaged_file_is_begun_anew_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        std::fs::write(home.path("ports.json"), "{").unwrap();
        let kept = KeptPorts::load(&home).unwrap();
        assert!(kept.notes[0].contains("ports.json is damaged"), "{:?}", kept.notes);
    }
}
