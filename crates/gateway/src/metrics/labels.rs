//! Label values. They are closed sets, so a client cannot create series.

/// Declares an enum whose variants are the values of a label.
macro_rules! label {
    ($(#[$attribute:meta])* $visibility:vis enum $name:ident {
        $($(#[$doc:meta])* $variant:ident = $value:literal,)+
    }) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $visibility enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            #[allow(dead_code, reason = "the values of some labels are not preregistered")]
            pub(super) const ALL: &[Self] = &[$(Self::$variant),+];

            pub(crate) fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $value,)+
                }
            }
        }
    };
}

label! {
    /// Outcome of a request for embeddings.
    pub enum Outcome {
        /// Vectors.
        Success = "success",
        /// A 4xx status.
        ClientError = "client_error",
        /// A rejection for lack of capacity or time.
        Rejected = "rejected",
        /// A 500 status.
        Error = "error",
        /// The client disconnected.
        Cancelled = "cancelled",
    }
}

label! {
    /// Reason for the rejection of a request.
    pub enum Rejection {
        /// The queue has no capacity for its tokens.
        QueueFull = "queue_full",
        /// The memory for request bodies is exhausted.
        BodyMemoryExhausted = "body_memory_exhausted",
        /// The memory for answers is exhausted.
        ResponseMemoryExhausted = "response_memory_exhausted",
        /// More tokens than the request limit or the model allows.
        TooLong = "too_long",
        /// No API key, or an invalid one.
        Auth = "auth",
        /// The server is shutting down.
        Draining = "draining",
        /// Its deadline passed or cannot be met.
        Timeout = "timeout",
        /// It exceeds the rate limits of its key.
        RateLimit = "rate_limit",
        /// The rate limits of its key cannot be checked.
        RateLimiterUnavailable = "rate_limiter_unavailable",
        /// Its model was not loaded in time.
        LoadTimeout = "load_timeout",
        /// Its model could not be loaded.
        LoadFailed = "load_failed",
        /// Too many requests wait for its model to be loaded.
        LoadQueueFull = "load_queue_full",
    }
}

impl Rejection {
    /// Rejections that can occur before the model is known.
    pub(super) const BEFORE_MODEL_KNOWN: [Self; 3] = [Self::Auth, Self::BodyMemoryExhausted, Self::Draining];
    /// Rejections that can occur afterwards.
    pub(super) const AFTER_MODEL_KNOWN: [Self; 7] = [
        Self::QueueFull,
        Self::ResponseMemoryExhausted,
        Self::TooLong,
        Self::Draining,
        Self::Timeout,
        Self::RateLimit,
        Self::RateLimiterUnavailable,
    ];
    /// Rejections of requests whose model is not loaded.
    pub(super) const OF_LOADS: [Self; 3] = [Self::LoadTimeout, Self::LoadFailed, Self::LoadQueueFull];
}

label! {
    /// Result of a load of a model.
    pub enum LoadOutcome {
        /// The model is loaded.
        Success = "success",
        /// The model cannot be served.
        Failure = "failure",
    }
}

label! {
    /// Reason for the unload of a model.
    pub enum UnloadReason {
        /// It had no request for some time.
        Idle = "idle",
        /// Another model needed its memory.
        Budget = "budget",
        /// The operator requested it.
        Admin = "admin",
    }
}

label! {
    /// Treatment of a parameter that OpenAI's API does not have and that was not honored.
    pub enum ParameterOutcome {
        /// The request was answered without it.
        Ignored = "ignored",
        /// The request was answered with 400 because of it.
        Rejected = "rejected",
    }
}

label! {
    /// Part of a connection's life in which the server waits for the client.
    pub(crate) enum ConnectionPhase {
        /// The TLS handshake.
        Handshake = "handshake",
        /// The head of a request: the first from the accept on, later ones from their first byte.
        Head = "head",
        /// Between two requests.
        Idle = "idle",
        /// The socket accepts no more bytes of an answer.
        Send = "send",
        /// The last answer is sent, and the client may still be sending a body that is not read.
        Linger = "linger",
    }
}

label! {
    /// Result of a cache lookup.
    pub(super) enum CacheResult {
        /// In local memory.
        Hit = "hit",
        /// In the remote cache.
        RemoteHit = "remote_hit",
        /// In neither.
        Miss = "miss",
    }
}

label! {
    /// Kind of a failed operation of a Redis server.
    pub enum RedisErrorKind {
        /// The answer came too late.
        Timeout = "timeout",
        /// The connection could not be opened, or broke.
        Connection = "connection",
        /// Any other error, such as an invalid password.
        Other = "other",
    }
}
