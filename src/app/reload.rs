//! SIGHUP: reads the configuration again and applies what can change while running.
//!
//! All or nothing: a broken file changes nothing and says why. What cannot change while running is named, with the old value
//! still in force.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use tokio::sync::{Mutex, watch};
use tracing::{error, info, warn};

use super::parts;
use super::parts::RouteParts;
use crate::cloud::Session;
use crate::config::{Config, Environment};
use crate::http::listener::Tls;
use crate::inbound::relay::RelaySettings;
use crate::observe::log::LogLevel;
use crate::operate::status::Info;
use crate::os::tls;
use crate::state_dir::Identity;

/// Where the configuration came from, to read it again.
pub struct Source {
    /// The file named on the command line.
    pub path: Option<PathBuf>,
    /// The process's environment.
    pub environment: Environment,
    /// The log's level, if this process may change it.
    pub level: Option<LogLevel>,
}

/// What a reload reaches.
pub(super) struct Reload {
    pub(super) source: Source,
    /// As the process started with: what needs a restart is named at every reload.
    pub(super) config: Config,
    /// As reloaded last; of it the verbs use what can change while running.
    pub(super) current: watch::Sender<Config>,
    pub(super) session: Session,
    pub(super) settings: watch::Sender<Arc<RelaySettings>>,
    pub(super) routes: RouteParts,
    pub(super) info: watch::Sender<Info>,
    pub(super) identity: Arc<Identity>,
    pub(super) changing_url: Arc<Mutex<()>>,
    pub(super) tls: Tls,
}

impl Reload {
    pub(super) async fn reload(&mut self) {
        let new = match Config::load(self.source.path.as_deref(), &self.source.environment) {
            Ok(new) => new,
            Err(error) => return error!(%error, "the configuration was not reloaded; the old one stays in force"),
        };
        let certificates = match (&self.tls, &new.callback.tls) {
            (Some(_), Some(files)) => match tls::server_config(&files.cert, &files.key) {
                Ok(tls) => Some(tls),
                Err(error) => return error!(error, "the configuration was not reloaded; the old one stays in force"),
            },
            _ => None,
        };
        for key in self.config.restart_needed(&new) {
            warn!(key, "a changed key takes effect at the next restart");
        }
        if let Some(level) = &self.source.level {
            level.set(new.log.level);
        }
        self.settings.send_replace(Arc::new(parts::relay_settings(&new)));
        // They were checked against the base topic that they were read with.
        if new.mqtt.base_topic == self.config.mqtt.base_topic {
            self.routes.reload(&new);
        } else if !(new.routes.is_empty() && self.config.routes.is_empty()) {
            warn!(key = "route", "changed routes take effect with the changed mqtt.base_topic, at the next restart");
        }
        if let (Some(current), Some(tls)) = (&self.tls, certificates) {
            *current.write().unwrap_or_else(PoisonError::into_inner) = tls;
        }
        // Until the verbs see the new configuration: the secret must not change in between, nor a URL be made of the old one.
        let changing = self.changing_url.lock().await;
        let url = new.callback_url(&self.identity.path_secret());
        self.session.reconfigure(new.ilink.topics.clone(), new.ilink.presence.clone(), url).await;
        let (callback_host, warnings) = (parts::callback_host(&new), new.warnings());
        self.info.send_if_modified(|info| {
            let changed = info.callback_host != callback_host;
            (info.callback_host, info.warnings) = (callback_host, warnings);
            changed
        });
        self.current.send_replace(new);
        drop(changing);
        info!("the configuration was reloaded");
    }
}
