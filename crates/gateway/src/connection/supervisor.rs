//! The future of a connection: it runs the HTTP dispatcher until it ends or its phase times out, then closes the
//! socket.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
    time::{Duration, SystemTime},
};

use actix_http::error::DispatchError;
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, apply_fn_factory, fn_service,
};
use actix_web::http::header::HttpDate;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{Connection, Limits, Phase, Stream, deadline::Deadline, io::Io};
use crate::metrics::{GaugeGuard, Metrics};

/// Maximum time for a client to read its last response and close.
const LINGER_TIMEOUT: Duration = Duration::from_secs(3);

/// Serves HTTP with `http` on every connection, over TLS if there is an acceptor.
pub(crate) fn serve<H, F>(
    http: F,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    metrics: Metrics,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = DispatchError, InitError = ()>
where
    F: IntoServiceFactory<H, (Stream, Option<SocketAddr>)>,
    H: ServiceFactory<
            (Stream, Option<SocketAddr>),
            Config = (),
            Response = (),
            Error = DispatchError,
            InitError = (),
        > + 'static,
{
    let accept = move |tcp: TcpStream| {
        let supervisor = Supervisor {
            peer: tcp.peer_addr().ok(),
            limits,
            _open: metrics.connection_opened(),
            metrics: metrics.clone(),
        };
        supervisor.accept(tcp, tls.clone())
    };
    fn_service(accept).and_then(apply_fn_factory(
        http,
        |(io, supervisor): (Io, Supervisor), http: &H::Service| {
            let (io, connection) = (Rc::new(RefCell::new(io)), Rc::<Connection>::default());
            // On the heap, because each future around it would reserve its size twice.
            let dispatcher = Box::pin(http.call((Stream::new(&io, &connection), supervisor.peer)));
            supervisor.run(dispatcher, io, connection)
        },
    ))
}

/// Outcome of the dispatcher's part.
enum End {
    Dispatcher(Result<(), DispatchError>),
    /// The response is sent, but the request's body was not read completely.
    Unread,
    /// The client exceeded the timeout of its phase.
    TimedOut(Phase),
}

struct Supervisor {
    peer: Option<SocketAddr>,
    limits: Limits,
    metrics: Metrics,
    _open: GaugeGuard,
}

impl Supervisor {
    async fn accept(self, tcp: TcpStream, tls: Option<TlsAcceptor>) -> Result<(Io, Self), DispatchError> {
        match Io::open(tcp, tls, self.limits.head).await {
            Ok(io) => Ok((io, self)),
            Err(error) => {
                if error.kind() == io::ErrorKind::TimedOut {
                    self.report(Phase::Handshake);
                }
                let error = error.into();
                self.log(&error);
                Err(error)
            }
        }
    }

    async fn run(
        self,
        dispatcher: Pin<Box<impl Future<Output = Result<(), DispatchError>>>>,
        io: Rc<RefCell<Io>>,
        connection: Rc<Connection>,
    ) -> Result<(), DispatchError> {
        let end = drive(dispatcher, &connection, self.limits).await;
        // The dispatcher was dropped, and with it its handle on the socket.
        let Some(io) = Rc::into_inner(io) else { return Ok(()) };
        let mut io = io.into_inner();
        let unread = match end {
            End::TimedOut(phase) => {
                self.report(phase);
                match phase {
                    Phase::Head => send_request_timeout(&mut io).await,
                    Phase::Send => io.reset_on_close(),
                    _ => drop(timeout(LINGER_TIMEOUT, io.shutdown()).await),
                }
                false
            }
            End::Unread => true,
            End::Dispatcher(Ok(())) => connection.has_unread_body() && !connection.closed.get(),
            End::Dispatcher(Err(error)) => {
                self.log(&error);
                matches!(error, DispatchError::Parse(_))
            }
        };
        if unread && !linger(&mut io, self.limits.linger_bytes).await {
            self.report(Phase::Linger);
        }
        Ok(())
    }

    /// Counts and logs a connection that is ended because its client exceeded a limit.
    fn report(&self, phase: Phase) {
        self.metrics.connection_ended(phase);
        let phase = phase.label();
        tracing::debug!(peer = ?self.peer, phase, "connection ended: the client exceeded the limit of the phase");
    }

    /// Logs the error that broke the connection, at level DEBUG if the client caused it.
    fn log(&self, error: &DispatchError) {
        let peer = self.peer;
        match error {
            DispatchError::Io(_) | DispatchError::Parse(_) => {
                tracing::debug!(?peer, %error, "connection failed");
            }
            _ => tracing::error!(?peer, %error, "connection failed"),
        }
    }
}

/// Polls the dispatcher until it ends, or its deadline has passed.
async fn drive(
    mut dispatcher: Pin<Box<impl Future<Output = Result<(), DispatchError>>>>,
    connection: &Connection,
    limits: Limits,
) -> End {
    let mut timer = pin!(sleep(limits.head.min(limits.idle)));
    let mut deadline = Deadline::new(limits, Instant::now());
    poll_fn(|context| {
        connection.begin_step();
        if let Poll::Ready(result) = dispatcher.as_mut().poll(context) {
            return Poll::Ready(End::Dispatcher(result));
        }
        if connection.wants_step() {
            context.waker().wake_by_ref();
        }
        let (phase, now) = (connection.phase(), Instant::now());
        match (phase, deadline.update(phase, connection.written.get(), now)) {
            (Some(Phase::Linger), _) => Poll::Ready(End::Unread),
            (Some(phase), Some(end)) if end <= now => Poll::Ready(End::TimedOut(phase)),
            (Some(phase), Some(end)) => {
                if timer.deadline() != end {
                    timer.as_mut().reset(end);
                }
                timer.as_mut().poll(context).map(|()| End::TimedOut(phase))
            }
            _ => Poll::Pending,
        }
    })
    .await
}

/// Answers an incomplete head with 408, and closes.
async fn send_request_timeout(io: &mut Io) {
    let response = format!(
        "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\ndate: {}\r\n\r\n",
        HttpDate::from(SystemTime::now())
    );
    let send = async {
        io.write_all(response.as_bytes()).await?;
        io.shutdown().await
    };
    // An error means that the client is gone.
    let _ = timeout(LINGER_TIMEOUT, send).await;
}

/// Closes the sending side and reads on for a while. A close with unread bytes would reset the connection, and the
/// client could lose the response (RFC 9112, section 9.6). Returns false if the client was still sending at the end.
async fn linger(io: &mut Io, max_bytes: usize) -> bool {
    let mut scratch = vec![0; 16 << 10];
    let read = async {
        io.shutdown().await?;
        let mut left = max_bytes;
        loop {
            let read = io.read(&mut scratch).await?;
            if read == 0 || read > left {
                return io::Result::Ok(read == 0);
            }
            left -= read;
        }
    };
    // An error means that the client is gone.
    timeout(LINGER_TIMEOUT, read).await.is_ok_and(|closed| closed.unwrap_or(true))
}
