//! The fleet as believed.

use super::Compile;
use crate::config::options;
use crate::config::sharing::Password;
use crate::config::walk::Given;
use crate::limits::fleet::FleetSpec;
use crate::redis::RedisSpec;

impl Compile<'_, '_> {
    /// None: this proxy shares with nobody.
    pub(super) fn fleet(
        &mut self,
        redis: &options::Redis,
        limits: &[options::Limit],
    ) -> Option<FleetSpec> {
        let servers = redis.servers.value.as_deref().unwrap_or_default();
        if servers.is_empty() {
            self.lonely(redis, limits);
            return None;
        }
        if redis.username.value.is_some() && redis.password.value.is_none() {
            let what = "`username` without `password`";
            self.tell(&redis.username.at, what, "add it, or leave both out");
        }
        if let Some(ca) = &redis.ca.value {
            if !servers.iter().any(|server| server.0.tls) {
                let what = "`ca` without TLS";
                let help = "write `rediss://`, or leave it out";
                self.tell(&redis.ca.at, what, help);
            } else if let Err(error) = (self.world.readable)(ca) {
                let what = format!("`ca`: {}: {error}", ca.display());
                let help = "a file of certificates in PEM, readable by this user";
                self.tell(&redis.ca.at, what, help);
            }
        }
        if redis.proxies.at == super::At::Default {
            let what = "`servers` without `proxies`";
            let help = "say how many proxies there are: `proxies = 4`";
            self.tell(&redis.servers.at, what, help);
        }
        let password = self.password(&redis.password);
        Some(FleetSpec {
            redis: RedisSpec {
                servers: servers.iter().map(|server| server.0.clone()).collect(),
                username: redis.username.value.as_ref().map(|name| name.0.clone()),
                password,
                ca: redis.ca.value.clone(),
                timeout: redis.timeout.value,
                prefix: redis.prefix.value.0.clone(),
            },
            proxies: (redis.proxies.value)
                .and_then(|proxies| u32::try_from(proxies).ok())
                .unwrap_or(1),
        })
    }

    /// Tells what has no use where there is no Redis.
    fn lonely(&mut self, redis: &options::Redis, limits: &[options::Limit]) {
        for (name, at) in [
            ("username", &redis.username.at),
            ("password", &redis.password.at),
            ("ca", &redis.ca.at),
            ("proxies", &redis.proxies.at),
        ] {
            if at.is_written() && redis.servers.at != super::At::Told {
                let what = format!("`{name}` without `servers`");
                let help = "add `servers = [\"redis://redis:6379\"]`, or leave it out";
                self.tell(at, what, help);
            }
        }
        for limit in limits {
            if limit.shared.at.is_written() && limit.shared.value {
                let what = "a limit that is shared, and nobody to share it with";
                let help = "add `[redis]` with `servers`, or leave it out";
                self.tell(&limit.shared.at, what, help);
            }
        }
    }

    fn password(&mut self, given: &Given<Option<Password>>) -> Option<String> {
        let path = match given.value.as_ref()? {
            Password::Text(text) => return Some(text.clone()),
            Password::File(path) => path,
        };
        let read = (self.world.read)(path).map_err(|error| error.to_string());
        // An editor ends a file with a line's end.
        let read =
            read.and_then(
                |bytes| match String::from_utf8(bytes.trim_ascii_end().to_vec()) {
                    Ok(text) if text.is_empty() => Err("nothing in it".to_owned()),
                    text => text.map_err(|_| "not UTF-8".to_owned()),
                },
            );
        match read {
            Ok(password) => {
                self.secrets.push(path.clone());
                Some(password)
            }
            Err(why) => {
                let what = format!("`password`: {}: {why}", path.display());
                self.tell(
                    &given.at,
                    what,
                    "a file with the password, readable by this user",
                );
                None
            }
        }
    }
}
