//! Files that stand for pages: found, read whole from the one descriptor that was opened, and made an entry like any other.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use rustix::fs::{FileType, Stat};
use siphasher::sip128::{Hasher128, SipHasher13};

use super::beneath;
use super::kinds::content_type;
use crate::cache::entry::{Body, Entry, EntryParts, Head};
use crate::cache::memory::{Memory, weight};
use crate::cache::table::Variant;
use crate::cache::tags::Set;
use crate::rules::date;
use crate::rules::encoding::Coding;
use crate::rules::fallback::{is_plain, kind_of};
use crate::rules::storing::{Audience, Source, Terms};
use crate::rules::time::Now;
use crate::rules::vary::{Codings, Vary};

/// Somebody may be writing a file at the very moment: it is looked at again so often.
const TRIES: usize = 3;
/// What files in a coding are called, the best first.
const SIBLINGS: [(Coding, &[u8]); 3] = [
    (Coding::Br, b".br"),
    (Coding::Zstd, b".zst"),
    (Coding::Gzip, b".gz"),
];

/// What is wanted of a directory.
pub struct Wanted<'a> {
    /// The site's own folder goes before the directory itself.
    pub host: &'a str,
    /// Below it, the best first.
    pub files: &'a [Vec<u8>],
    /// What the client takes; nothing but the bytes as they are, where it wants ranges of them.
    pub codings: Codings,
    /// The largest file that is read, in bytes.
    pub most: u64,
    /// Fields of the route's.
    pub own: &'a [(HeaderName, HeaderValue)],
    pub now: Now,
}

/// The best file that is there, as a page. Blocks. None: there is none that can be used, or no memory for it.
pub fn find(dir: &Path, wanted: &Wanted<'_>, memory: &Arc<Memory>) -> Option<Arc<Entry>> {
    // The way to the directory is the operator's, and may lead through links.
    let dir = File::open(dir).ok()?;
    let own = own_folder(dir.as_fd(), wanted.host);
    let root = own.as_ref().map_or(dir.as_fd(), AsFd::as_fd);
    let mut files = wanted.files.iter();
    files.find_map(|file| page(root, file, wanted, memory))
}

/// Whether there is a file for a page, of a size that can be read. Blocks.
pub fn is_there(dir: &Path, wanted: &Wanted<'_>) -> bool {
    let Ok(dir) = File::open(dir) else {
        return false;
    };
    let own = own_folder(dir.as_fd(), wanted.host);
    let root = own.as_ref().map_or(dir.as_fd(), AsFd::as_fd);
    let mut files = wanted.files.iter();
    files.any(|file| size(root, file).is_some_and(|size| size <= wanted.most))
}

fn own_folder(dir: BorrowedFd<'_>, host: &str) -> Option<OwnedFd> {
    let is_name = is_plain(host.as_bytes());
    is_name
        .then(|| beneath::folder(dir, host.as_bytes()).ok())
        .flatten()
}

fn page(
    root: BorrowedFd<'_>,
    file: &[u8],
    wanted: &Wanted<'_>,
    memory: &Arc<Memory>,
) -> Option<Arc<Entry>> {
    let read = |path: &[u8]| read(root, path, wanted.most, memory);
    let siblings = SIBLINGS
        .iter()
        .filter(|(coding, _)| wanted.codings.contains(coding.as_set()));
    for (coding, ending) in siblings {
        let sibling = read(&[file, ending].concat());
        // One without the file that it is a coding of is no page.
        if let Some(bytes) = sibling.filter(|_| size(root, file).is_some()) {
            let begins = read_start(root, file);
            return entry(file, &begins, bytes, Some(*coding), wanted, memory);
        }
    }
    let bytes = read(file)?;
    let begins = bytes.slice(..bytes.len().min(START));
    entry(file, &begins, bytes, None, wanted, memory)
}

/// What tells a page where the name says nothing.
const START: usize = 64;

/// Of a regular file.
fn size(root: BorrowedFd<'_>, path: &[u8]) -> Option<u64> {
    let file = beneath::read(root, path).ok()?;
    let about = rustix::fs::fstat(&file).ok()?;
    let size = u64::try_from(about.st_size).ok()?;
    is_regular(&about).then_some(size)
}

fn read_start(root: BorrowedFd<'_>, path: &[u8]) -> Vec<u8> {
    let mut start = Vec::new();
    if let Ok(file) = beneath::read(root, path) {
        // It only serves to guess.
        let _ = File::from(file).take(START as u64).read_to_end(&mut start);
    }
    start
}

/// A whole file of `most` bytes at the most.
fn read(root: BorrowedFd<'_>, path: &[u8], most: u64, memory: &Arc<Memory>) -> Option<Bytes> {
    for _ in 0..TRIES {
        let file = beneath::read(root, path).ok()?;
        let before = rustix::fs::fstat(&file).ok()?;
        let size = u64::try_from(before.st_size).ok()?;
        if !is_regular(&before) || size > most {
            return None;
        }
        // Taken for as long as it is not known to be a page.
        let _charge = memory.charge_modestly(weight(usize::try_from(size).ok()?))?;
        let mut file = File::from(file);
        if let Ok(bytes) = whole(&mut file, size)
            && rustix::fs::fstat(&file).is_ok_and(|after| is_same(&before, &after))
        {
            return Some(bytes);
        }
    }
    None
}

fn whole(file: &mut File, size: u64) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.by_ref().take(size + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 == size {
        true => Ok(bytes.into()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// No folder, pipe, socket or device.
fn is_regular(about: &Stat) -> bool {
    FileType::from_raw_mode(about.st_mode) == FileType::RegularFile
}

fn is_same(before: &Stat, after: &Stat) -> bool {
    let told = |about: &Stat| {
        let changed = (about.st_ctime, about.st_ctime_nsec);
        (about.st_size, about.st_mtime, about.st_mtime_nsec, changed)
    };
    told(before) == told(after)
}

fn entry(
    file: &[u8],
    begins: &[u8],
    bytes: Bytes,
    coding: Option<Coding>,
    wanted: &Wanted<'_>,
    memory: &Arc<Memory>,
) -> Option<Arc<Entry>> {
    let kind = kind_of(file);
    let mut fields = HeaderMap::new();
    let mut set = |name, value: &str| {
        // They are all made here.
        if let Ok(value) = HeaderValue::from_str(value) {
            fields.insert(name, value);
        }
    };
    set(header::CONTENT_TYPE, content_type(kind.as_deref(), begins));
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::ETAG, &etag(&bytes));
    set(header::VARY, "Accept-Encoding");
    if let Some(coding) = coding {
        set(header::CONTENT_ENCODING, coding.name());
    }
    if let Ok(date) = std::str::from_utf8(&date::format(wanted.now.wall)) {
        set(header::DATE, date);
    }
    let own = wanted.own.iter();
    let own: Vec<_> = own
        .filter(|(name, _)| !fields.contains_key(name))
        .cloned()
        .collect();
    let parts = EntryParts {
        head: Head::render(200, &fields, &[], &own),
        body: Body::of(bytes, memory)?,
        terms: TERMS,
        stored: wanted.now.mono,
        variant: Variant::default(),
        cost: Duration::ZERO,
        generation: 0,
        tags: Set::default(),
    };
    Entry::new(parts, memory).map(Arc::new)
}

/// By what is in it: the same on all proxies, and another for other bytes, whatever the file's times are.
fn etag(bytes: &[u8]) -> String {
    let mut hasher = SipHasher13::new();
    std::hash::Hasher::write(&mut hasher, bytes);
    format!("\"{:032x}\"", hasher.finish128().as_u128())
}

/// It is never stored.
const TERMS: Terms = Terms {
    source: Source::Default,
    lifetime: Duration::ZERO,
    initial_age: Duration::ZERO,
    swr: Duration::ZERO,
    sie: Duration::ZERO,
    always_revalidate: false,
    forbids_stale: false,
    fresh_on_arrival: false,
    audience: Audience::Everyone,
    explicitly_shared: false,
    permits_authorization: false,
    no_transform: true,
    immutable: false,
    strip_set_cookie: false,
    vary: Vary::None,
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    use crate::rules::fallback::files;
    use crate::rules::time::Moment;

    fn found(dir: &Path, host: &str, path: &str, codings: Codings) -> Option<Arc<Entry>> {
        let wanted = Wanted {
            host,
            files: &files(path, None),
            codings,
            most: 1000,
            own: &[],
            now: Now {
                mono: Moment(0),
                wall: 0,
            },
        };
        find(dir, &wanted, &Memory::new(1 << 20))
    }

    fn text(entry: &Entry) -> String {
        let pieces = entry.body.pieces().concat();
        String::from_utf8(pieces).unwrap()
    }

    #[test]
    fn pages_of_one_site_and_of_several() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("index.html", "home");
        put("page.html", "page");
        put("b.test/index.html", "home of b");
        let body = |host: &str, path: &str| {
            let entry = found(folder.path(), host, path, Codings::IDENTITY)?;
            Some(text(&entry))
        };
        assert_eq!(body("a.test", "/").unwrap(), "home");
        assert_eq!(body("a.test", "/page").unwrap(), "page");
        assert_eq!(body("b.test", "/").unwrap(), "home of b");
        assert_eq!(body("b.test", "/page"), None);
        assert_eq!(body("..", "/").unwrap(), "home");
        assert_eq!(body("a.test", "/none"), None);
    }

    #[test]
    fn a_coding_goes_out_with_the_page_it_is_of() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("a.css"), "as it is").unwrap();
        fs::write(at("a.css.br"), "br").unwrap();
        fs::write(at("a.css.gz"), "gz").unwrap();
        fs::write(at("alone.css.br"), "br").unwrap();
        let get = |path: &str, codings| found(folder.path(), "a.test", path, codings);
        let all = Codings::of_line(b"br, gzip, zstd");
        let entry = get("/a.css", all).unwrap();
        let head = String::from_utf8(entry.head.bytes().to_vec()).unwrap();
        assert_eq!(text(&entry), "br");
        assert!(head.contains("Content-Encoding: br\r\n"), "{head}");
        assert!(head.contains("Content-Type: text/css"), "{head}");
        let gzip = get("/a.css", Codings::GZIP).unwrap();
        assert_eq!(text(&gzip), "gz");
        assert_ne!(gzip.head.validators().etag, entry.head.validators().etag);
        assert_eq!(text(&get("/a.css", Codings::IDENTITY).unwrap()), "as it is");
        assert!(get("/alone.css", all).is_none());
    }

    #[test]
    fn c56_nothing_but_a_file_of_a_bearable_size() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("large.html"), vec![b'x'; 1001]).unwrap();
        fs::write(at("fits.html"), vec![b'x'; 1000]).unwrap();
        fs::create_dir(at("folder.html")).unwrap();
        symlink("/etc/passwd", at("link.html")).unwrap();
        symlink("/dev/zero", at("zero.html")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let dir = File::open(folder.path()).unwrap();
        rustix::fs::mknodat(&dir, "pipe.html", FileType::Fifo, mode, 0).unwrap();
        let is_there =
            |path: &str| found(folder.path(), "a.test", path, Codings::IDENTITY).is_some();
        assert!(is_there("/fits"));
        for path in ["/large", "/folder", "/link", "/zero", "/pipe"] {
            assert!(!is_there(path), "{path}");
        }
        assert!(found(Path::new("/dev/zero"), "a", "/", Codings::IDENTITY).is_none());
        assert!(found(Path::new("/dev"), "a", "/zero", Codings::IDENTITY).is_none());
    }
}
