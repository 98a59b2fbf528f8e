//! What is done to a cluster as it runs.
//!
//! A member is replaced in three steps, and never in another order, since a member that is added counts for the quorum before it
//! runs: [`Upkeep::remove`] the old one, [`Upkeep::add`] the new one, and start it as
//! [`Joining`](super::Beginning::Joining) with the list that [`joined_by`] makes of the answer. A server that lost its disk
//! is replaced by itself, for its old member may have voted for what the new one knows nothing of.

use std::time::Duration;

use super::Peer;
use crate::wire::{
    AlarmRequest, AlarmResponse, CompactionRequest, CompactionResponse, Empty, Int64, MemberAddRequest,
    MemberListResponse, MemberRemoveRequest, Uint64,
};
use crate::{Client, Error, Revision};

/// How long a member's file may take to be defragmented. It answers nothing meanwhile.
const DEFRAGMENT_WITHIN: Duration = Duration::from_mins(1);

/// How long a member may take to answer again after that.
const WELL_WITHIN: Duration = Duration::from_secs(10);

/// A member's number in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u64);

/// A member, as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its number.
    pub id: MemberId,
    /// Its name; empty until it has started.
    pub name: String,
    /// Its URLs for peers.
    pub peer_urls: Vec<String>,
    /// Its URLs for clients; none until it has started.
    pub client_urls: Vec<String>,
}

/// What a member complains of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlarmKind {
    /// Its file is full. The whole cluster refuses writes, but deletions, until it was compacted, defragmented and disarmed.
    NoSpace,
    /// Its file is damaged: the member must be replaced.
    Corrupt,
}

/// A complaint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alarm {
    /// Whose.
    pub member: MemberId,
    /// Of what.
    pub kind: AlarmKind,
}

/// What can be done to a cluster, by a client that has one endpoint for each member.
#[derive(Debug, Clone)]
pub struct Upkeep {
    client: Client,
}

impl Upkeep {
    /// By this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The members. Each member answers from what it knows itself, which after a change may be a moment old.
    pub async fn members(&self) -> Result<Vec<MemberInfo>, Error> {
        let answer: MemberListResponse = self.client.read("/v3/cluster/member/list", &Empty {}).await?;
        Ok(members(answer))
    }

    /// Adds a member, which counts from now on, and is to be started at once. The answer is all members.
    pub async fn add(&self, peer_url: &str) -> Result<Vec<MemberInfo>, Error> {
        let request = MemberAddRequest { peer_urls: vec![peer_url.to_owned()] };
        let answer: MemberListResponse = self.client.once("/v3/cluster/member/add", &request).await?;
        Ok(members(answer))
    }

    /// Removes a member, which ends if it still runs. The answer is those that stay.
    pub async fn remove(&self, member: MemberId) -> Result<Vec<MemberInfo>, Error> {
        let request = MemberRemoveRequest { id: Uint64(member.0) };
        let answer: MemberListResponse = self.client.once("/v3/cluster/member/remove", &request).await?;
        Ok(members(answer))
    }

    /// What members complain of.
    pub async fn alarms(&self) -> Result<Vec<Alarm>, Error> {
        let answer: AlarmResponse =
            self.client.read("/v3/maintenance/alarm", &AlarmRequest::default()).await?;
        let alarms = answer.alarms.into_iter().filter_map(|alarm| {
            let kind = match alarm.alarm.as_str() {
                "NOSPACE" => AlarmKind::NoSpace,
                "CORRUPT" => AlarmKind::Corrupt,
                _ => return None,
            };
            Some(Alarm { member: MemberId(alarm.member_id.0), kind })
        });
        Ok(alarms.collect())
    }

    /// Takes a complaint back, once its cause is gone.
    pub async fn disarm(&self, alarm: Alarm) -> Result<(), Error> {
        let kind = match alarm.kind {
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
        };
        let request = AlarmRequest {
            action: "DEACTIVATE".to_owned(),
            member_id: Uint64(alarm.member.0),
            alarm: kind.to_owned(),
        };
        let _: AlarmResponse = self.client.once("/v3/maintenance/alarm", &request).await?;
        Ok(())
    }

    /// Forgets the changes up to a revision. Watches that have not got there yet must start over.
    pub async fn compact(&self, revision: Revision) -> Result<(), Error> {
        // With `physical` the answer comes when the space is free, so that defragmenting gives it back.
        let request = CompactionRequest { revision: Int64(revision), physical: true };
        let _: CompactionResponse = self.client.once("/v3/kv/compaction", &request).await?;
        Ok(())
    }

    /// Gives the free space of the members' files back to the file system: one member at a time, for each answers nothing
    /// meanwhile; the leader last; and no further if one does not get well again.
    pub async fn defragment(&self) -> Result<(), Error> {
        let mut places = Vec::new();
        for place in 0..self.client.endpoints() {
            let status = self.client.status(place).await?;
            places.push((status.member == status.leader, place));
        }
        places.sort_unstable();
        let patient = self.client.with_deadline(DEFRAGMENT_WITHIN);
        for (_, place) in places {
            let _: serde_json::Value = patient.at(place, "/v3/maintenance/defragment", &Empty {}).await?;
            self.wait_until_well(place).await?;
        }
        Ok(())
    }

    async fn wait_until_well(&self, place: usize) -> Result<(), Error> {
        let end = std::time::Instant::now() + WELL_WITHIN;
        loop {
            match self.client.status(place).await {
                Ok(status) if status.leader != 0 => return Ok(()),
                Ok(_) | Err(_) if std::time::Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Ok(_) => {
                    return Err(Error::Unavailable {
                        why: "the member has no leader after it was defragmented".to_owned(),
                    });
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The list that a joining member is started with: the members, with its own name where there is none yet.
pub fn joined_by(members: &[MemberInfo], name: &str, peer_url: &str) -> Vec<Peer> {
    let peers = members.iter().flat_map(|member| {
        let own = member.peer_urls.iter().any(|url| url == peer_url);
        let name = if own { name } else { &member.name };
        member.peer_urls.iter().map(|url| Peer { name: name.to_owned(), peer_url: url.clone() })
    });
    // One that was added before and never started has no name, and etcd would not take it.
    peers.filter(|peer| !peer.name.is_empty()).collect()
}

fn members(answer: MemberListResponse) -> Vec<MemberInfo> {
    let members = answer.members.into_iter().map(|member| MemberInfo {
        id: MemberId(member.id.0),
        name: member.name,
        peer_urls: member.peer_urls,
        client_urls: member.client_urls,
    });
    members.collect()
}
