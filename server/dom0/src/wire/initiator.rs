//! The real wire: `p2v_aoe`'s initiator on an interface of this host.

use std::time::Duration;

use p2v_aoe::initiator::{Error, Initiator, Session};
use p2v_contract::inventory::Inventory;
use p2v_contract::key::SecretKey;
use p2v_contract::operation::{self, Stats};
use p2v_contract::{Address, MacAddr};

use super::{Access, Export, Finish, Found, Reservation, SilenceListener, Wire, WireError};

impl From<Error> for WireError {
    fn from(error: Error) -> WireError {
        WireError(error.to_string())
    }
}

impl Wire for Initiator {
    fn discover(&self, wait: Duration) -> Result<Vec<Found>, WireError> {
        let found = Initiator::discover(self, wait)?;
        Ok(found
            .into_iter()
            .map(|f| Found {
                address: f.address,
                mac: f.mac,
            })
            .collect())
    }

    fn attach(&self, address: Address) -> Result<Box<dyn Export>, WireError> {
        Ok(Box::new(Initiator::attach(self, address)?))
    }
}

impl Export for Session {
    fn mac(&self) -> MacAddr {
        Session::mac(self)
    }

    fn wait_out_silence(&mut self, patience: Duration, listener: SilenceListener) {
        self.set_patience(patience);
        self.listen_for_silence(listener);
    }

    fn wait_for_disk(&mut self, most: Duration) {
        Session::wait_for_disk(self, most);
    }

    fn without_data(&mut self) {
        Session::without_data(self);
    }

    fn inventory(&mut self) -> Result<Inventory, WireError> {
        Ok(Session::inventory(self)?)
    }

    fn write(&mut self, lba: u64, data: &[u8]) -> Result<(), WireError> {
        Ok(Session::write(self, lba, data)?)
    }

    fn access(&mut self, key: &SecretKey, counter: u64, access: Access) -> Result<(), WireError> {
        let access = match access {
            Access::ReadOnly => operation::Access::ReadOnly,
            Access::ReadWrite => operation::Access::ReadWrite,
        };
        Ok(Session::access(self, key, counter, access)?)
    }

    fn finish(&mut self, key: &SecretKey, counter: u64, finish: Finish) -> Result<(), WireError> {
        let finish = match finish {
            Finish::PowerOff => operation::Finish::PowerOff,
            Finish::Restart => operation::Finish::Restart,
        };
        Ok(Session::finish(self, key, counter, finish)?)
    }

    fn reserve_by_order(
        &mut self,
        key: &SecretKey,
        counter: u64,
        reservation: Reservation,
    ) -> Result<(), WireError> {
        Ok(Session::reserve_by_order(self, key, counter, reservation)?)
    }

    fn stats(&mut self) -> Result<Stats, WireError> {
        Ok(Session::stats(self)?)
    }

    fn reserve(&mut self) -> Result<(), WireError> {
        Ok(Session::reserve(self)?)
    }

    fn release(&mut self) -> Result<(), WireError> {
        Ok(Session::release(self)?)
    }
}
