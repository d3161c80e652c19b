//! The embedded broker: the laws of the contract.

mod contract;

use driftline_broker::{Embedded, EmbeddedConfig};
use tempfile::TempDir;

use crate::contract::Subject;

struct OnDisk {
    folder: TempDir,
    broker: Option<Embedded>,
}

impl Subject for OnDisk {
    type Broker = Embedded;

    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let broker = Embedded::open(folder.path(), EmbeddedConfig::default()).unwrap();
        Self { folder, broker: Some(broker) }
    }

    fn broker(&self) -> &Embedded {
        self.broker.as_ref().unwrap()
    }

    fn restart(&mut self) {
        self.broker = None;
        self.broker = Some(Embedded::open(self.folder.path(), EmbeddedConfig::default()).unwrap());
    }
}

#[test]
fn keeps_every_law_of_the_contract() {
    contract::all_laws::<OnDisk>();
}
