//! Databases, accounts and schemas, as the plan says: on whoever takes writes, once it does.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use super::Hands;
use crate::Client;
use crate::mariadb::accounts::{self, Doors};

/// What failed is tried again after so long.
const AGAIN: Duration = Duration::from_secs(1);
/// A statement may wait long for its acknowledgement.
const WITHIN: Duration = Duration::from_mins(5);

/// Tries until it is done. It ends with the epoch.
pub(super) async fn until_done(hands: Rc<Hands>) {
    loop {
        match attempt(&hands).await {
            Ok(()) => return tracing::info!("databases, accounts and schemas are as the plan says"),
            Err(reason) => {
                tracing::warn!(reason, "databases, accounts and schemas are not as the plan says yet");
            }
        }
        sleep(AGAIN).await;
    }
}

async fn attempt(hands: &Hands) -> Result<(), String> {
    let setup = &hands.setup;
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let password = setup.secret(&setup.cluster.replication_secret).map_err(|error| text(&error))?;
    let mut session = hands.mariadbd.session().await.map_err(|error| text(&error))?;
    let (members, from) = (setup.addresses(), &setup.replicas_from);
    accounts::provide(&mut session, &members, from, &password, Doors::AsTheyAre, WITHIN)
        .await
        .map_err(|error| text(&error))?;
    accounts::enable_events(&mut session, WITHIN).await.map_err(|error| text(&error))?;
    let plan = setup.plan.clone();
    let mut secrets = Vec::new();
    for database in &plan.databases {
        let secret = setup.secret(&database.password_secret).map_err(|error| text(&error))?;
        secrets.push((database.password_secret.clone(), secret));
    }
    let client = Client::new(&setup.place).map_err(|error| text(&error))?;
    let done = tokio::task::spawn_blocking(move || {
        let secret = |name: &str| {
            let found = secrets.iter().find(|(known, _)| known == name).map(|(_, secret)| secret.clone());
            found.ok_or("its password is not among the secrets")
        };
        crate::provision(&plan, &client, secret).map_err(|error| error.to_string())
    });
    done.await.unwrap_or_else(|error| Err(error.to_string()))
}
