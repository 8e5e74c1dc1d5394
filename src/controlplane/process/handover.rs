//! What an old and a new process say to each other during an upgrade, on a pair of sockets.
//!
//! The two may be of different versions: what a side does not know it leaves alone, and what it cannot do without is refused
//! before anything has happened. First comes the state, one line of JSON, with the access log's descriptor beside its first
//! byte; then words, a line each.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::base::secret::{Secret, SecretBytes, SecretText};
use crate::base::ticket::{TicketSecret, TicketSecrets};

/// The variable that tells a new process which one started it: descriptors are taken from that one alone.
pub const PREDECESSOR: &str = "LOCKGATE_PREDECESSOR";

/// The form of what is said; another one is refused.
const FORM: u32 = 1;

/// Bytes of the state, and of a word, at most.
const STATE_LIMIT: usize = 64 << 20;
pub(super) const WORD_LIMIT: usize = 64 << 10;

/// Bytes that are read at a time.
const PIECE: usize = 16 << 10;

/// What the old process leaves besides sockets.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    form: u32,
    /// The version of its binary.
    pub(super) version: String,
    /// Keys of tickets, by listener.
    #[serde(default)]
    tickets: Vec<Tickets>,
    /// What the keys of sessions are made of.
    #[serde(default)]
    sessions: Option<Hidden>,
    /// The path of the access log whose descriptor comes with this.
    #[serde(default)]
    pub(super) access_log: Option<PathBuf>,
    /// Whether a control socket is among the descriptors whose file goes with its process.
    #[serde(default)]
    pub(super) owns_control: bool,
    /// The folders that it may write to, and so may the next, if it is in a sandbox.
    #[serde(default)]
    pub(super) writable: Option<Vec<PathBuf>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Tickets {
    listener: String,
    #[serde(default)]
    client_auth: Option<String>,
    keys: Vec<Key>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Key {
    name: String,
    key: Hidden,
    age_ms: u64,
}

/// A secret in the text: wiped, and shown by no log.
#[derive(Debug)]
struct Hidden(SecretText);

impl Hidden {
    fn new(secret: &Secret) -> Self {
        Self(BASE64.encode(secret.bytes()).into())
    }

    fn read(&self) -> Option<Secret> {
        let bytes = Zeroizing::new(BASE64.decode(self.0.as_str()).ok()?);
        Secret::made(|secret| {
            *secret = bytes.as_slice().try_into().ok()?;
            Some(())
        })
    }
}

impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self(String::deserialize(from)?.into()))
    }
}

/// What is said after that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "say")]
pub(super) enum Word {
    /// New: everything is prepared, and nothing accepts.
    Ready { version: String },
    /// New: it came to nothing.
    Failed { why: String },
    /// Old: accept.
    Go,
    /// New: the listeners accept.
    Serving,
    /// Old: the process is yours, and systemd knows.
    Farewell,
}

impl State {
    pub(super) fn new(
        tickets: &[(String, TicketSecrets)],
        sessions: Option<&Secret>,
        access_log: Option<PathBuf>,
        owns_control: bool,
        writable: Option<Vec<PathBuf>>,
    ) -> Self {
        let tickets = tickets.iter().map(|(listener, secrets)| Tickets {
            listener: listener.clone(),
            client_auth: secrets.client_auth.map(|digest| BASE64.encode(digest)),
            keys: secrets.keys.iter().map(Key::new).collect(),
        });
        Self {
            form: FORM,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            tickets: tickets.collect(),
            sessions: sessions.map(Hidden::new),
            access_log,
            owns_control,
            writable,
        }
    }

    /// The keys of tickets; those that make no sense are left out.
    pub(super) fn tickets(&self) -> Vec<(String, TicketSecrets)> {
        let tickets = self.tickets.iter().filter_map(|tickets| {
            let client_auth = match &tickets.client_auth {
                Some(digest) => Some(bytes(digest)?),
                None => None,
            };
            let keys = tickets.keys.iter().filter_map(Key::read).collect();
            let secrets = TicketSecrets { client_auth, keys };
            Some((tickets.listener.clone(), secrets))
        });
        tickets.collect()
    }

    /// What the keys of sessions are made of, if it makes sense.
    pub(super) fn sessions(&self) -> Option<Secret> {
        self.sessions.as_ref()?.read()
    }

    /// The line that is sent.
    pub(super) fn line(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        line(self)
    }
}

impl Key {
    fn new(secret: &TicketSecret) -> Self {
        Self {
            name: BASE64.encode(secret.name),
            key: Hidden::new(&secret.key),
            age_ms: u64::try_from(secret.age.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn read(&self) -> Option<TicketSecret> {
        Some(TicketSecret {
            name: bytes(&self.name)?,
            key: self.key.read()?,
            age: Duration::from_millis(self.age_ms),
        })
    }
}

impl Word {
    /// The line that is sent.
    pub(super) fn line(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        line(self)
    }

    /// Reads a line; what nobody here knows is an error.
    pub(super) fn read(line: &[u8]) -> io::Result<Self> {
        serde_json::from_slice(line).map_err(invalid)
    }
}

/// The line is written into as much room as it takes: one that grows would leave its beginning, and so a key, where it was.
fn line(value: &impl Serialize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut length = Length(0);
    serde_json::to_writer(&mut length, value).map_err(invalid)?;
    let mut line = Zeroizing::new(Vec::with_capacity(length.0 + 1));
    serde_json::to_writer(&mut *line, value).map_err(invalid)?;
    line.push(b'\n');
    Ok(line)
}

/// Counts what is written.
struct Length(usize);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    BASE64.decode(text).ok()?.try_into().ok()
}

fn invalid(error: serde_json::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Sends one byte with a descriptor beside it; a stream of bytes has to carry something.
pub(super) fn send_first(
    channel: BorrowedFd<'_>,
    byte: u8,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptor.into_iter().collect();
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    let bytes = [byte];
    sendmsg(
        channel,
        &[IoSlice::new(&bytes)],
        &mut beside,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Reads that byte and what is beside it.
fn read_first(channel: &UnixStream) -> io::Result<(u8, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = recvmsg(
        channel.as_fd(),
        &mut [IoSliceMut::new(&mut byte)],
        &mut beside,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut descriptor = None;
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            descriptor = descriptor.or(descriptors.last());
        }
    }
    let [byte] = byte;
    Ok((byte, descriptor))
}

/// The new side of the pair.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    /// What was read beyond the last line.
    read: SecretBytes,
}

impl Channel {
    /// Reads what the old process leaves, and begins to talk.
    ///
    /// # Errors
    /// It is gone or silent, or speaks another form.
    pub(super) fn open(
        stream: UnixStream,
        patience: Duration,
    ) -> io::Result<(Self, State, Option<File>)> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let (first, descriptor) = read_first(&stream)?;
        let mut channel = Self {
            stream,
            read: vec![first].into(),
        };
        let text = channel.line(STATE_LIMIT)?;
        let state: State = serde_json::from_slice(&text).map_err(invalid)?;
        if state.form != FORM {
            let told = format!("version {} hands over in another form", state.version);
            return Err(io::Error::new(io::ErrorKind::Unsupported, told));
        }
        Ok((channel, state, descriptor.map(File::from)))
    }

    pub(super) fn say(&mut self, word: &Word) -> io::Result<()> {
        self.stream.write_all(&word.line()?)
    }

    /// Waits for a word, so long at most.
    pub(super) fn hear(&mut self, patience: Duration) -> io::Result<Word> {
        self.stream.set_read_timeout(Some(patience))?;
        Word::read(&self.line(WORD_LIMIT)?)
    }

    /// The next line, up to a limit. No buffer of the standard library is between, which would keep a copy.
    fn line(&mut self, limit: usize) -> io::Result<SecretBytes> {
        let mut piece = Zeroizing::new([0; PIECE]);
        let mut looked = 0;
        loop {
            let unseen = self.read.get(looked..).unwrap_or_default();
            if let Some(end) = memchr::memchr(b'\n', unseen) {
                let rest = self.read.split_off(looked + end + 1);
                return Ok(std::mem::replace(&mut self.read, rest));
            }
            looked = self.read.len();
            if looked >= limit {
                return Err(io::ErrorKind::InvalidData.into());
            }
            match self.stream.read(&mut *piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.read.extend(piece.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn secrets() -> Vec<(String, TicketSecrets)> {
        let key = |byte: u8| TicketSecret {
            name: [byte; 16],
            key: Secret::new([byte + 1; 32]),
            age: Duration::from_millis(1500),
        };
        let with = |client_auth| TicketSecrets {
            client_auth,
            keys: vec![key(1), key(2)],
        };
        vec![
            ("web".to_owned(), with(None)),
            ("[::]:443".to_owned(), with(Some([7; 32]))),
        ]
    }

    fn send(state: &State, descriptor: Option<&File>) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let line = state.line().unwrap();
        let (first, rest) = line.split_first().unwrap();
        send_first(ours.as_fd(), *first, descriptor.map(AsFd::as_fd)).unwrap();
        (&ours).write_all(rest).unwrap();
        (&ours).write_all(&Word::Go.line().unwrap()).unwrap();
        theirs
    }

    #[test]
    fn a_state_arrives_as_it_was_sent_with_its_descriptor() {
        let sessions = Secret::new([9; 32]);
        let state = State::new(
            &secrets(),
            Some(&sessions),
            Some("access.log".into()),
            true,
            Some(vec!["logs".into()]),
        );
        let mut file = tempfile::tempfile().unwrap();
        let stream = send(&state, Some(&file));
        let (mut channel, state, received) = Channel::open(stream, PATIENCE).unwrap();
        assert_eq!(state.tickets(), secrets());
        assert_eq!(state.sessions(), Some(sessions));
        assert_eq!(state.access_log, Some("access.log".into()));
        assert!(state.owns_control);
        assert_eq!(state.writable, Some(vec![PathBuf::from("logs")]));
        assert_eq!(channel.hear(PATIENCE).unwrap(), Word::Go);
        received.unwrap().write_all(b"line").unwrap();
        let mut written = String::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_string(&mut written).unwrap();
        assert_eq!(written, "line");
    }

    #[test]
    fn no_key_is_in_what_a_state_shows() {
        let state = State::new(&secrets(), Some(&Secret::new([9; 32])), None, false, None);
        let shown = format!("{state:?} {:?}", secrets());
        for secret in [[2; 32], [3; 32], [9; 32]] {
            assert!(!shown.contains(&BASE64.encode(secret)), "{shown}");
            assert!(!shown.contains(&format!("{secret:?}")), "{shown}");
        }
    }

    #[test]
    fn a_state_without_a_descriptor_arrives_too() {
        let stream = send(&State::new(&[], None, None, false, None), None);
        let (_, state, file) = Channel::open(stream, PATIENCE).unwrap();
        assert!(file.is_none() && state.tickets().is_empty());
    }

    #[test]
    fn what_a_later_version_adds_is_left_alone_and_another_form_is_refused() {
        let later = r#"{"form":1,"version":"9.0.0","tickets":[{"listener":"a","keys":[
            {"name":"AAAA","key":"!","age_ms":1}],"more":1}],"more":{}}"#;
        let state: State = serde_json::from_str(later).unwrap();
        assert_eq!(state.tickets()[0].1.keys, []);
        assert_eq!(state.sessions(), None);
        let other = State {
            form: 2,
            ..State::default()
        };
        let error = Channel::open(send(&other, None), PATIENCE).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(Word::read(b"{\"say\":\"sing\"}").is_err());
    }

    #[test]
    fn a_side_that_is_gone_or_silent_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let short = Duration::from_millis(50);
        assert!(Channel::open(theirs, short).is_err(), "silent");
        drop(ours);
        let (mut channel, ..) = Channel::open(
            send(&State::new(&[], None, None, false, None), None),
            PATIENCE,
        )
        .unwrap();
        channel.hear(PATIENCE).unwrap();
        let gone = channel.hear(PATIENCE).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::UnexpectedEof);
    }
}
