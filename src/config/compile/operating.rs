//! What operators ask by, and where the process keeps what outlives it, as believed.

use std::io;
use std::sync::Arc;

use super::Compile;
use crate::config::options;
use crate::config::policy::{Admin, Fallback, SocketPlace, StateDir};
use crate::config::value::OrOff;
use crate::rules::standby;

impl Compile<'_, '_> {
    pub(super) fn admin(&mut self, admin: &options::Admin, listen: &options::Listen) -> Admin {
        let address = admin.address.value.clone().on();
        if let Some(address) = address
            && address == listen.address.value
            && address.port() != 0
        {
            let at = match admin.address.at.is_written() {
                true => &admin.address.at,
                false => &listen.address.at,
            };
            let what = format!("visitors and operators can't both have {address}");
            self.tell(at, what, "give `[admin]` another port, or `\"off\"`");
        }
        let token = self.secret("token", &admin.token);
        if token
            .as_ref()
            .is_some_and(|token| !token.0.iter().all(u8::is_ascii_graphic))
        {
            let what = "`token`: other characters than visible ASCII";
            self.tell(&admin.token.at, what, "no client could send it");
        }
        Admin {
            address,
            socket: socket(admin),
            token,
        }
    }

    pub(super) fn fallback(&mut self, fallback: &options::Fallback) -> Fallback {
        if let Some(dir) = &fallback.dir.value {
            let help = "a folder that this user can read";
            match (self.world.readable)(dir) {
                Err(error) if error.kind() == io::ErrorKind::IsADirectory => {}
                Err(error) => {
                    let what = format!("`dir`: {}: {error}", dir.display());
                    self.tell(&fallback.dir.at, what, help);
                }
                Ok(()) => {
                    let what = format!("`dir`: {} is no folder", dir.display());
                    self.tell(&fallback.dir.at, what, help);
                }
            }
        }
        Fallback {
            snapshot: fallback.snapshot.value.0,
            snapshot_rate: fallback.snapshot_rate.value.0,
            dir: fallback.dir.value.clone(),
            page: self.page(fallback),
            retry_after: fallback.retry_after.value,
            auto: auto(fallback),
        }
    }

    fn page(&mut self, fallback: &options::Fallback) -> Option<Arc<[u8]>> {
        let path = fallback.page.value.as_ref()?;
        let at = &fallback.page.at;
        let bytes = self.read(path, at, "a page of HTML, readable by this user")?;
        if bytes.is_empty() || bytes.len() > PAGE_MOST {
            let size = bytes.len();
            let what = format!("`page`: {} has {size} bytes", path.display());
            self.tell(at, what, "a page of 1MiB at most, and not an empty one");
        }
        Some(bytes.into())
    }
}

/// The largest maintenance page: every visitor gets it.
const PAGE_MOST: usize = 1 << 20;

fn auto(fallback: &options::Fallback) -> Option<standby::Terms> {
    let is_prepared = fallback.dir.value.is_some() || fallback.page.value.is_some();
    let terms = standby::Terms {
        after: fallback.auto_after.value,
        hold: fallback.auto_hold.value,
    };
    let auto = fallback.auto.value.unwrap_or(is_prepared);
    auto.then_some(terms)
}

/// Where operators' socket is.
pub(in crate::config) fn socket(admin: &options::Admin) -> SocketPlace {
    match admin.socket.value.clone() {
        None => SocketPlace::Usual,
        Some(OrOff::Off) => SocketPlace::Off,
        Some(OrOff::On(path)) => SocketPlace::At(path),
    }
}

pub(in crate::config) fn state(state: &options::State) -> StateDir {
    match state.dir.value.clone() {
        None => StateDir::Usual,
        Some(OrOff::Off) => StateDir::Off,
        Some(OrOff::On(path)) => StateDir::At(path),
    }
}
