//! A table within a list: its keys one by one, every mistake told.

use super::nearest::nearest;
use super::options::Opt;
use super::value::{Literal, Part, Value, Wrong};

/// A table within a list, whose keys are taken one by one.
pub struct Keys<'l> {
    found: &'l [(String, Literal)],
    wrongs: Vec<Wrong>,
}

impl<'l> Keys<'l> {
    /// Tells every key that is none of the options.
    pub fn of(found: &'l [(String, Literal)], options: &'static [Opt]) -> Self {
        let known = || options.iter().map(|option| option.name);
        let unknown = |(key, _): &&(String, Literal)| !known().any(|name| name == key);
        let wrong = |(key, _): &(String, Literal)| Wrong {
            key: Some((key.clone(), Part::Key)),
            ..Wrong::new(
                format!("unknown key `{}`", key.escape_debug()),
                match nearest(key, known()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("it has {}", known().collect::<Vec<_>>().join(", ")),
                },
            )
        };
        Keys {
            found,
            wrongs: found.iter().filter(unknown).map(wrong).collect(),
        }
    }

    /// What was written, or the default; none where either is wrong.
    pub fn take<T: Value>(&mut self, option: &Opt) -> Option<T> {
        let written = self.found.iter().find(|(key, _)| key == option.name);
        let Some((_, literal)) = written else {
            if let Some(default) = option.absent() {
                return Some(default);
            }
            let what = format!("`{}` is missing", option.name);
            let help = format!("write it: `{} = {}`", option.name, option.toml());
            self.wrongs.push(Wrong::new(what, help));
            return None;
        };
        match T::read(literal, option.bounds) {
            Ok(value) => Some(value),
            Err(wrongs) => {
                let below = wrongs.into_iter().map(|wrong| wrong.below(option.name));
                self.wrongs.extend(below);
                None
            }
        }
    }

    /// What was made of them, or all that is wrong.
    ///
    /// # Errors
    /// Something is.
    pub fn end<T>(self, made: Option<T>) -> Result<T, Vec<Wrong>> {
        match made {
            Some(made) if self.wrongs.is_empty() => Ok(made),
            _ => Err(self.wrongs),
        }
    }
}
