//! Whether etcd lets us read and write below the prefix: tried with a key of our own, which goes again at once.

use serde_json::{Value, json};
use ulid::Ulid;

use super::client::{Client, EACH};
use super::config::{Keys, end_of};
use super::error::EtcdError;
use super::wire::{Lease, Number, Put, Range, Step, Transaction};

/// The trial's key is gone after so many seconds, whatever becomes of us.
const TRIAL_S: u64 = 10;

/// What was tried.
#[derive(Debug)]
pub struct Rights {
    /// Reading everything below the prefix.
    pub read: Result<(), EtcdError>,
    /// Writing a key there, and removing it.
    pub write: Result<(), EtcdError>,
}

impl Rights {
    pub(super) async fn tried(client: &Client, keys: &Keys, user: Option<&str>) -> Self {
        let (read, write) = (read(client, keys).await, write(client, keys).await);
        let role = match user {
            Some(user) if [&read, &write].into_iter().any(is_denied) => role(client, user).await,
            _ => None,
        };
        let named = |tried: Result<(), EtcdError>, right: &'static str| {
            let denied = is_denied(&tried);
            tried.map_err(|error| match user {
                Some(user) if denied => EtcdError::Denied {
                    user: user.to_owned(),
                    right,
                    below: keys.root(),
                    role: role.clone().unwrap_or_else(|| "<role>".to_owned()),
                },
                _ => error,
            })
        };
        Self { read: named(read, "read"), write: named(write, "write") }
    }
}

fn is_denied(tried: &Result<(), EtcdError>) -> bool {
    matches!(tried, Err(EtcdError::Auth(words)) if words.contains("permission denied"))
}

async fn read(client: &Client, keys: &Keys) -> Result<(), EtcdError> {
    let root = keys.root();
    let (limit, end) = (Number(1), end_of(&root).into());
    client.range(&Range { key: root.into(), end, limit, keys_only: true, ..Range::default() }).await.map(|_| ())
}

async fn write(client: &Client, keys: &Keys) -> Result<(), EtcdError> {
    let asked = Lease::question(0, TRIAL_S);
    let granted: Lease = client.ask("/v3/lease/grant", &asked, EACH).await?;
    let key = keys.trial(&Ulid::generate().to_string());
    let put = Put { key: key.clone().into(), value: "".into(), lease: granted.id };
    let mut tried = Ok(());
    for step in [Step::Put(put), Step::delete(key)] {
        let transaction = Transaction { success: vec![step], ..Transaction::default() };
        tried = tried.and(client.transact(&transaction).await.map(|_| ()));
    }
    let ended = Lease::question(granted.id.0, 0);
    // If etcd does not hear it, the lease ends by itself.
    let _ = client.ask::<Lease>("/v3/lease/revoke", &ended, EACH).await;
    tried
}

/// The user's role, if it has one alone.
async fn role(client: &Client, user: &str) -> Option<String> {
    let found: Value = client.ask("/v3/auth/user/get", &json!({"name": user}), EACH).await.ok()?;
    match found.get("roles")?.as_array()?.as_slice() {
        [role] => Some(role.as_str()?.to_owned()),
        _ => None,
    }
}
