//! How many connections one client may have open, over all workers.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::networks::Networks;

/// Parts of the table, so that workers seldom wait for each other.
const SHARDS: usize = 32;

/// Counts connections by client. It is asked once per connection, and holds no more clients than there are connections.
pub struct Clients {
    most: u32,
    /// Proxies, whose connections carry those of many clients.
    exempt: Networks,
    hashing: RandomState,
    /// Each guards the counts of the clients that fall into it.
    shards: [Mutex<HashMap<IpAddr, u32>>; SHARDS],
}

/// A client's place. Dropped, it is free again.
#[derive(Debug)]
pub struct ClientPlace {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Clients {
    /// A table that allows each client this many connections; `None` for 0, which is no limit.
    pub fn new(most: u32, exempt: &Networks) -> Option<Arc<Self>> {
        (most > 0).then(|| {
            Arc::new(Self {
                most,
                exempt: exempt.clone(),
                hashing: RandomState::new(),
                shards: std::array::from_fn(|_| Mutex::default()),
            })
        })
    }

    /// Takes a place for the client at this address. `Err` if it has as many as it may; `Ok(None)` if it is not counted.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Option<ClientPlace>, Full> {
        let address = address.to_canonical();
        if self.exempt.contains(address) {
            return Ok(None);
        }
        let client = client(address);
        let mut shard = self.shard(client);
        let open = shard.entry(client).or_insert(0);
        if *open >= self.most {
            return Err(Full);
        }
        *open += 1;
        Ok(Some(ClientPlace { clients: Arc::clone(self), client }))
    }

    /// Whether a table that is made of these is like this one.
    pub fn is_like(&self, other: &Self) -> bool {
        self.most == other.most && self.exempt == other.exempt
    }

    fn shard(&self, client: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        let shard = self.hashing.hash_one(client) as usize % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("most", &self.most).finish_non_exhaustive()
    }
}

/// A client has as many connections as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// One who has an address of IPv6 has a network of them, of 64 bits at least (RFC 6177).
fn client(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        let mut shard = self.clients.shard(self.client);
        if let Entry::Occupied(mut open) = shard.entry(self.client) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Clients, Full};
    use crate::networks::Networks;

    #[test]
    fn each_client_has_so_many_places_and_leaves_nothing_behind() {
        let proxies = Networks::parse(&["10.0.0.0/8".to_owned()]).unwrap();
        let clients = Clients::new(2, &proxies).unwrap();
        let enter = |address: &str| clients.enter(address.parse().unwrap());
        let mut held = vec![enter("192.0.2.1").unwrap(), enter("::ffff:192.0.2.1").unwrap()];
        assert_eq!(enter("192.0.2.1").err(), Some(Full));
        held.push(enter("192.0.2.2").unwrap());
        held.push(enter("2001:db8::1").unwrap());
        held.push(enter("2001:db8::ffff:0:0:1").unwrap());
        assert_eq!(enter("2001:db8:0:0:1::").err(), Some(Full), "all of a /64 are one");
        assert!(enter("2001:db8:0:1::1").unwrap().is_some());
        assert!((0..10).all(|_| enter("10.1.2.3").unwrap().is_none()), "a proxy is not counted");
        held.remove(0);
        assert!(enter("192.0.2.1").is_ok());
        held.clear();
        assert!(clients.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
        assert!(Clients::new(0, &proxies).is_none());
    }
}
