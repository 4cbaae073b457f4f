//! A client's connection, from its accept to its close. Each of its phases has a timeout.
//!
//! The HTTP library has timeouts for the first head and an idle connection, so this module adds the others. The
//! library's dispatcher runs inside [`supervisor`], which knows the connection's [`Phase`] from two sources: [`stream`]
//! counts the bytes and records when the socket accepts no more, and the middleware's [`Exchange`] records when a
//! request is being answered and how much of its body was read. A connection that exceeds its phase's timeout is taken
//! from the dispatcher and closed (docs/adr/0014).
//!
//! ```text
//! accept ─▶ handshake ─▶ head ─▶ (body, computation) ─▶ send ─▶ idle ─▶ head ─▶ …
//!                                                        └─▶ linger ─▶ closed
//! ```

mod deadline;
mod exchange;
mod head_end;
mod io;
mod stream;
mod supervisor;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use actix_web::HttpRequest;

use crate::{config::Config, metrics::ConnectionPhase as Phase};

use head_end::HeadEnd;

pub(crate) use exchange::Exchange;
pub(crate) use stream::Stream;
pub(crate) use supervisor::serve;

/// Limits of every connection. [`Duration::MAX`] means no limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Timeout of a TLS handshake, and of a head.
    head: Duration,
    idle: Duration,
    /// Maximum time budget for sending; see [`deadline`].
    send: Duration,
    /// Minimum bytes per second that a client must accept; 0 if any byte is enough.
    min_send_rate: usize,
    /// Maximum number of bytes that are read and dropped after the last response.
    linger_bytes: usize,
}

impl Limits {
    pub(crate) fn new(config: &Config) -> Self {
        let limit = |time: Duration| if time.is_zero() { Duration::MAX } else { time };
        let server = &config.server;
        Self {
            head: limit(server.client_header_timeout),
            idle: server.keep_alive,
            send: limit(server.send_timeout),
            min_send_rate: server.min_send_rate.0,
            linger_bytes: config.limits.max_body_bytes,
        }
    }
}

/// Maximum number of bytes that are read from the socket at a time, and that are read ahead.
const MAX_STEP: usize = 16 << 10;

/// State of one connection, shared by its stream, its supervisor and the middleware, which all run on one thread.
#[derive(Default)]
pub(crate) struct Connection {
    /// Bytes of HTTP passed to the dispatcher so far.
    read: Cell<u64>,
    /// Bytes passed in this step, see [`Self::begin_step`].
    step: Cell<usize>,
    /// True once the step's limit has prevented a read.
    withheld: Cell<bool>,
    /// Bytes that were read but not passed to the dispatcher. The first one completes the head of the next request.
    ahead: RefCell<Vec<u8>>,
    /// Position of the passed bytes in the end of a head.
    head_end: Cell<HeadEnd>,
    /// True once the end of a head was passed; false again when its request ends, or when a byte is held back.
    passed_head: Cell<bool>,
    /// Value of `read` when the last request began, or when its response ended.
    mark: Cell<u64>,
    /// Bytes of HTTP written so far.
    written: Cell<u64>,
    /// True while the socket accepts no more bytes.
    blocked: Cell<bool>,
    /// True once the client closed its side.
    closed: Cell<bool>,
    /// True once a request has arrived.
    has_request: Cell<bool>,
    /// True from a request's head until its whole response is in the dispatcher's write buffer.
    answering: Cell<bool>,
    body: Cell<BodyState>,
    interim: Cell<Interim>,
}

/// Progress of reading the last request's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum BodyState {
    /// Read to its end; also if there was no body.
    #[default]
    Complete,
    Begun,
    Untouched,
}

/// Treatment of the `100 Continue` that the HTTP library writes before it calls the handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Interim {
    #[default]
    Pass,
    /// Keep it until the handler reads the body or answers.
    Hold,
    /// Discard it: the final response came first.
    Drop,
}

impl Connection {
    /// The connection that `request` came on.
    pub(crate) fn of(request: &HttpRequest) -> Rc<Self> {
        request.conn_data::<Rc<Self>>().cloned().unwrap_or_default()
    }

    /// Bytes on the wire since the request's head, including HTTP's framing. The error is at most the dispatcher's
    /// buffer of 128 KiB.
    pub(crate) fn body_wire_bytes(&self) -> u64 {
        self.read.get() - self.mark.get()
    }

    /// The phase; `None` while the client waits for the server, whose handlers have timeouts of their own.
    fn phase(&self) -> Option<Phase> {
        if self.blocked.get() {
            Some(Phase::Send)
        } else if self.answering.get() {
            None
        } else if self.has_unread_body() {
            Some(Phase::Linger)
        } else if !self.has_request.get() || self.read.get() > self.mark.get() {
            Some(Phase::Head)
        } else {
            Some(Phase::Idle)
        }
    }

    /// Begins a new step of reading, unless it would read requests ahead while a response is computed or sent.
    fn begin_step(&self) {
        if self.may_read_on() {
            self.step.set(0);
        }
    }

    /// Returns true if a read was prevented in this step and is possible now, or if bytes that were read ahead can be
    /// passed on.
    fn wants_step(&self) -> bool {
        let waits = self.withheld.get() || self.has_read_ahead();
        let wants = waits && self.may_read_on() || self.withheld.get() && self.left_in_step() > 0;
        if wants {
            self.withheld.set(false);
        }
        wants
    }

    /// Number of bytes that may still be read in this step.
    fn left_in_step(&self) -> usize {
        let used = if self.only_reads_ahead() { self.ahead.borrow().len() } else { self.step.get() };
        MAX_STEP.saturating_sub(used)
    }

    fn has_read_ahead(&self) -> bool {
        !self.ahead.borrow().is_empty()
    }

    /// Returns true while the next request has arrived and the one before it is being answered. The socket is then
    /// only read to see whether the client disconnects.
    fn only_reads_ahead(&self) -> bool {
        self.has_read_ahead() && !self.takes_request()
    }

    /// Number of the first bytes of `read` that may be passed to the dispatcher: all, or those before the byte that
    /// completes the head of the next request. In the second case the step ends.
    ///
    /// The dispatcher decodes all requests that it was passed, at about 5 kB of memory each, before it answers the
    /// first. Once it has decoded the head of a request with a body, it marks the responses to earlier requests with
    /// `connection: close`, and may close the connection after them (docs/adr/0014).
    fn passable(&self, read: &[u8]) -> usize {
        let (mut end, mut passed) = (self.head_end.get(), 0);
        while let Some(at) = end.find(&read[passed..]) {
            passed += at;
            let passes = self.takes_request() && !self.passed_head.get();
            self.passed_head.set(passes);
            if !passes {
                self.head_end.set(end);
                self.step.set(MAX_STEP);
                return passed;
            }
            (end, passed) = (HeadEnd::default(), passed + 1);
        }
        self.head_end.set(end);
        read.len()
    }

    fn set_body(&self, body: BodyState) {
        self.body.set(body);
        if body == BodyState::Complete {
            // Without a new step the server could not read on, and would not see that the client disconnects.
            self.step.set(0);
        }
    }

    fn may_read_on(&self) -> bool {
        !self.blocked.get() && self.takes_request()
    }

    /// Returns true unless a request is complete and its response is not.
    fn takes_request(&self) -> bool {
        !self.answering.get() || self.has_unread_body()
    }

    fn has_unread_body(&self) -> bool {
        self.body.get() != BodyState::Complete
    }
}
