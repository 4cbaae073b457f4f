//! One request and its response on a connection.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use actix_web::{
    HttpMessage,
    body::{BodySize, MessageBody},
    dev::{Payload, ServiceRequest},
    error::PayloadError,
    web::Bytes,
};
use futures_util::Stream;

use super::{BodyState, Connection, Interim};

/// The time from a request's head to the end of its response. Dropping it marks the end.
pub(crate) struct Exchange(Rc<Connection>);

impl Exchange {
    /// Begins with `request`, and records how far its body is read.
    pub(crate) fn begin(request: &mut ServiceRequest) -> Self {
        let connection = Connection::of(request.request());
        let body = match request.take_payload() {
            Payload::None => BodyState::Complete,
            payload => {
                let body = RequestBody { payload, connection: Rc::clone(&connection) };
                request.set_payload(Payload::Stream { payload: Box::pin(body) });
                BodyState::Untouched
            }
        };
        connection.set_body(body);
        connection.interim.set(if request.head().expect() { Interim::Hold } else { Interim::Pass });
        connection.mark.set(connection.read.get());
        connection.has_request.set(true);
        connection.answering.set(true);
        Self(connection)
    }

    /// Records that the final status is decided. Returns true if the connection must close after the response, because
    /// the rest of the request's body would be read as the next request.
    pub(crate) fn decide(&self) -> bool {
        let connection = &self.0;
        if connection.interim.get() == Interim::Hold {
            connection.interim.set(Interim::Drop);
        }
        connection.has_unread_body()
    }

    /// Wraps the response's body. Dropping the wrapper ends the exchange.
    pub(crate) fn ending_with<B: MessageBody>(self, body: B) -> ResponseBody<B> {
        ResponseBody { body: Box::pin(body), _exchange: self }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.mark.set(self.0.read.get());
        self.0.answering.set(false);
        self.0.passed_head.set(false);
    }
}

/// A request's body that records how far it was read.
struct RequestBody {
    payload: Payload,
    connection: Rc<Connection>,
}

impl Stream for RequestBody {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.connection.body.get() == BodyState::Untouched {
            self.connection.body.set(BodyState::Begun);
            self.connection.interim.set(Interim::Pass);
        }
        let next = ready!(Pin::new(&mut self.payload).poll_next(context));
        if next.is_none() {
            self.connection.set_body(BodyState::Complete);
        }
        Poll::Ready(next)
    }
}

/// A response's body. The dispatcher drops it once all of it is in the write buffer.
pub(crate) struct ResponseBody<B> {
    body: Pin<Box<B>>,
    _exchange: Exchange,
}

impl<B: MessageBody> MessageBody for ResponseBody<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.body.as_mut().poll_next(context)
    }
}
