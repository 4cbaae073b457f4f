//! One client's connection, from its accept to its close. Each of its states has a time limit.
//!
//! The HTTP library has timers for the first head, an idle connection and little else, so this module has its own. The
//! library's dispatcher runs inside [`supervisor`], which knows from two sides which [`Phase`] the connection is in:
//! [`stream`] counts the bytes that pass and notes when the client takes no more, and the middleware's [`Exchange`] says
//! when a request is being answered and how much of its body was read. A connection that outlasts its phase's limit is
//! taken from the dispatcher and closed (docs/adr/0014).
//!
//! ```text
//! accept ─▶ handshake ─▶ head ─▶ (the server's turn: body, work) ─▶ send ─▶ idle ─▶ head ─▶ …
//!                                                                     └─▶ linger ─▶ closed
//! ```

mod deadline;
mod exchange;
mod io;
mod stream;
mod supervisor;

use std::{cell::Cell, rc::Rc, time::Duration};

use actix_web::HttpRequest;

use crate::{config::Config, metrics::ConnectionPhase as Phase};

pub(crate) use exchange::Exchange;
pub(crate) use stream::Stream;
pub(crate) use supervisor::serve;

/// Limits of every connection. [`Duration::MAX`] is no limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// For a TLS handshake, and for a head.
    head: Duration,
    idle: Duration,
    /// Longest time that an answer waits for its client; see [`deadline`].
    send: Duration,
    /// Bytes a second that a client has to take; 0 if any byte is enough.
    min_send_rate: usize,
    /// Bytes that are read and dropped after the last answer.
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

/// Maximum number of bytes that the dispatcher reads at a time between bodies. It decodes every request that it has read, at
/// some 5 kB each, before it answers the first: 128 KiB, its own limit, are 20 MB of the shortest requests.
const HEAD_STEP: usize = 2 << 10;
/// The same within a body, which requests may follow.
const BODY_STEP: usize = 16 << 10;

/// State of one connection, shared by its stream, its supervisor and the middleware, which all run on one thread.
#[derive(Default)]
pub(crate) struct Connection {
    /// Bytes of HTTP read so far.
    read: Cell<u64>,
    /// Bytes read in this step, see [`Self::begin_step`].
    step: Cell<usize>,
    /// True once the step's limit kept bytes from being read.
    withheld: Cell<bool>,
    /// `read` when the last request began, and again when its answer ended.
    mark: Cell<u64>,
    /// Bytes of HTTP written so far.
    written: Cell<u64>,
    /// True while the socket accepts no more bytes.
    blocked: Cell<bool>,
    /// True once the client closed its side.
    closed: Cell<bool>,
    /// True once a request has arrived.
    asked: Cell<bool>,
    /// True from a request's head until the last byte of its answer is with the socket, or waits for it (`blocked`).
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
    /// Leave it out: the final answer came first.
    Drop,
}

impl Connection {
    /// The connection that `request` came on.
    pub(crate) fn of(request: &HttpRequest) -> Rc<Self> {
        request.conn_data::<Rc<Self>>().cloned().unwrap_or_default()
    }

    /// Bytes on the wire since the request's head, HTTP's framing included; exact up to the dispatcher's buffer
    /// (128 KiB).
    pub(crate) fn body_wire_bytes(&self) -> u64 {
        self.read.get() - self.mark.get()
    }

    /// The phase; `None` while the client waits for the server. The handler bounds its own time.
    fn phase(&self) -> Option<Phase> {
        if self.blocked.get() {
            Some(Phase::Send)
        } else if self.answering.get() {
            None
        } else if self.has_unread_body() {
            Some(Phase::Linger)
        } else if !self.asked.get() || self.read.get() > self.mark.get() {
            Some(Phase::Head)
        } else {
            Some(Phase::Idle)
        }
    }

    /// Begins a new step of reading, unless requests would be read ahead of an answer that is computed or not yet taken.
    fn begin_step(&self) {
        if self.may_read_on() {
            self.step.set(0);
        }
    }

    /// Returns true if bytes were kept from being read in this step and may be read now.
    fn wants_step(&self) -> bool {
        let wants = self.withheld.get() && (self.may_read_on() || self.left_in_step() > 0);
        if wants {
            self.withheld.set(false);
        }
        wants
    }

    /// Number of bytes that may still be read in this step.
    fn left_in_step(&self) -> usize {
        let limit = if self.has_unread_body() { BODY_STEP } else { HEAD_STEP };
        limit.saturating_sub(self.step.get())
    }

    fn set_body(&self, body: BodyState) {
        self.body.set(body);
        if body == BodyState::Complete {
            // However much was read so far, some more must be, or the server would not see that the client hangs up.
            self.step.set(0);
        }
    }

    fn may_read_on(&self) -> bool {
        !self.blocked.get() && (!self.answering.get() || self.has_unread_body())
    }

    fn has_unread_body(&self) -> bool {
        self.body.get() != BodyState::Complete
    }
}
