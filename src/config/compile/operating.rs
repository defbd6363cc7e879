//! What operators ask by, and where the process keeps what outlives it, as believed.

use super::Compile;
use crate::config::options;
use crate::config::policy::{Admin, Fallback, SocketPlace, StateDir};
use crate::config::value::OrOff;

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
}

/// Where operators' socket is.
pub(in crate::config) fn socket(admin: &options::Admin) -> SocketPlace {
    match admin.socket.value.clone() {
        None => SocketPlace::Usual,
        Some(OrOff::Off) => SocketPlace::Off,
        Some(OrOff::On(path)) => SocketPlace::At(path),
    }
}

pub(super) fn fallback(fallback: &options::Fallback) -> Fallback {
    Fallback {
        snapshot: fallback.snapshot.value.0,
        snapshot_rate: fallback.snapshot_rate.value.0,
    }
}

pub(in crate::config) fn state(state: &options::State) -> StateDir {
    match state.dir.value.clone() {
        None => StateDir::Usual,
        Some(OrOff::Off) => StateDir::Off,
        Some(OrOff::On(path)) => StateDir::At(path),
    }
}
