//! The stream that the dispatcher reads and writes. It counts the bytes, and holds back an early `100 Continue` and
//! requests that come before the response to an earlier one.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Connection, Interim, io::Io};

/// The bytes that the HTTP library writes before it calls the handler.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Bytes of a connection. The supervisor shares the socket, and closes it.
pub(crate) struct Stream {
    io: Rc<RefCell<Io>>,
    connection: Rc<Connection>,
}

impl Stream {
    pub(super) fn new(io: &Rc<RefCell<Io>>, connection: &Rc<Connection>) -> Self {
        Self { io: Rc::clone(io), connection: Rc::clone(connection) }
    }

    /// The state that is attached to the connection's requests.
    pub(crate) fn connection(&self) -> Rc<Connection> {
        Rc::clone(&self.connection)
    }

    /// Records whether the socket accepts more bytes.
    fn record_blocked<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.connection.blocked.set(result.is_pending());
        result
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let connection = &self.connection;
        loop {
            let limit = connection.left_in_step();
            if limit == 0 {
                // The supervisor polls again when reading may go on.
                connection.withheld.set(true);
                return Poll::Pending;
            }
            let (limit, only_reads_ahead) = (limit.min(buffer.remaining()), connection.only_reads_ahead());
            let part = buffer.initialize_unfilled_to(limit);
            let mut ahead = connection.ahead.borrow_mut();
            let read = if ahead.is_empty() || only_reads_ahead {
                let mut part = ReadBuf::new(&mut *part);
                ready!(Pin::new(&mut *self.io.borrow_mut()).poll_read(context, &mut part))?;
                connection.closed.set(part.filled().is_empty());
                part.filled().len()
            } else {
                let count = ahead.len().min(limit);
                part[..count].copy_from_slice(&ahead[..count]);
                ahead.drain(..count);
                count
            };
            if read == 0 {
                return Poll::Ready(Ok(()));
            }
            if only_reads_ahead {
                ahead.extend_from_slice(&part[..read]);
                continue;
            }
            let passed = connection.passable(&part[..read]);
            // Before what is left of the bytes that were read earlier.
            ahead.splice(..0, part[passed..read].iter().copied());
            if passed > 0 {
                buffer.advance(passed);
                connection.step.set(connection.step.get() + passed);
                connection.read.set(connection.read.get() + passed as u64);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let connection = &self.connection;
        // In one write with the rest of an earlier response it is not recognized; then the client sends a body that may
        // not be needed.
        if bytes.starts_with(CONTINUE) {
            match connection.interim.get() {
                Interim::Pass => {}
                // No waker is needed: the handler runs in the same task as this write, and before it.
                Interim::Hold => return Poll::Pending,
                Interim::Drop => {
                    connection.interim.set(Interim::Pass);
                    return Poll::Ready(Ok(CONTINUE.len()));
                }
            }
        }
        let written =
            ready!(self.record_blocked(Pin::new(&mut *self.io.borrow_mut()).poll_write(context, bytes)))?;
        connection.written.set(connection.written.get() + written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.record_blocked(Pin::new(&mut *self.io.borrow_mut()).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.record_blocked(Pin::new(&mut *self.io.borrow_mut()).poll_shutdown(context))
    }
}
