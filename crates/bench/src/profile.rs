//! Profiles: the loads of servers, and the jobs of libraries in process.

use super::texts::TextKind;

/// Inputs of the largest request that OpenAI allows.
pub(crate) const BULK: usize = 2048;

/// Load of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Clients that each send a request, wait for its answer, and send the next.
    Clients { clients: usize, texts: usize, kind: TextKind },
    /// One client with requests of [`BULK`] short texts; another with one short text per request, which is measured.
    DuringBulk,
    /// As `Clients` with one short text, from a pool that was embedded before the measurement.
    RepeatedTexts { clients: usize, pool: u32 },
}

/// One way to load a server.
#[derive(Debug)]
pub(crate) struct Profile {
    /// For the command line and the record.
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// Description for the page.
    pub(crate) meaning: &'static str,
    pub(crate) load: Load,
    /// The metric in the table and the chart.
    pub(crate) metric: Metric,
}

/// The metric of a profile in the table and the chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// Texts a second: more is better.
    Throughput,
    /// Latency in milliseconds, median and 99th percentile: less is better.
    Latency,
}

/// In the order of measuring.
pub(crate) const PROFILES: [Profile; 9] = [
    Profile {
        id: "one",
        title: "1 short text, 1 client",
        meaning: "A search box on an idle server: latency of one text, one request at a time.",
        load: Load::Clients { clients: 1, texts: 1, kind: TextKind::Short },
        metric: Metric::Latency,
    },
    Profile {
        id: "clients-32",
        title: "1 short text, 32 clients",
        meaning: "A busy service: 32 connections, each with one short text at a time.",
        load: Load::Clients { clients: 32, texts: 1, kind: TextKind::Short },
        metric: Metric::Throughput,
    },
    Profile {
        id: "clients-128",
        title: "1 short text, 128 clients",
        meaning: "The same with 128 connections.",
        load: Load::Clients { clients: 128, texts: 1, kind: TextKind::Short },
        metric: Metric::Throughput,
    },
    Profile {
        id: "clients-512",
        title: "1 short text, 512 clients",
        meaning: "The same with 512 connections: throughput with far more clients than the server can serve \
                  at the same time.",
        load: Load::Clients { clients: 512, texts: 1, kind: TextKind::Short },
        metric: Metric::Throughput,
    },
    Profile {
        id: "mixed",
        title: "32 mixed texts, 4 clients",
        meaning: "Indexing: 4 connections, each with 32 texts of 6 to 250 tokens a request.",
        load: Load::Clients { clients: 4, texts: 32, kind: TextKind::Mixed },
        metric: Metric::Throughput,
    },
    Profile {
        id: "long",
        title: "16 × 256 tokens, 2 clients",
        meaning: "Long documents: 2 connections, each with 16 texts of the model's maximum length.",
        load: Load::Clients { clients: 2, texts: 16, kind: TextKind::Long },
        metric: Metric::Throughput,
    },
    Profile {
        id: "bulk",
        title: "2,048 short texts in one request",
        meaning: "The largest request that OpenAI allows, one after the other.",
        load: Load::Clients { clients: 1, texts: BULK, kind: TextKind::Short },
        metric: Metric::Throughput,
    },
    Profile {
        id: "together",
        title: "1 short text during 2,048",
        meaning: "A search box during indexing: the latency of one short text, sent by one client \
                  while another sends requests of 2,048.",
        load: Load::DuringBulk,
        metric: Metric::Latency,
    },
    Profile {
        id: "again",
        title: "repeated texts, 32 clients",
        meaning: "256 short texts that the server has answered before, repeatedly: cache hits on a server \
                  with a cache.",
        load: Load::RepeatedTexts { clients: 32, pool: 256 },
        metric: Metric::Throughput,
    },
];

/// A job of a library in process, and the HTTP profile that it is compared with.
#[derive(Debug)]
pub(crate) struct LibraryProfile {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) kind: TextKind,
    /// One text at a time, for its latency; otherwise the fastest batch size.
    pub(crate) single: bool,
    /// The compared profile of servers.
    pub(crate) compared_with: &'static str,
}

/// In the order of measuring.
pub(crate) const LIBRARY_PROFILES: [LibraryProfile; 4] = [
    LibraryProfile {
        id: "single",
        title: "one short text",
        kind: TextKind::Short,
        single: true,
        compared_with: "one",
    },
    LibraryProfile {
        id: "short",
        title: "short texts",
        kind: TextKind::Short,
        single: false,
        compared_with: "bulk",
    },
    LibraryProfile {
        id: "mixed",
        title: "mixed texts",
        kind: TextKind::Mixed,
        single: false,
        compared_with: "mixed",
    },
    LibraryProfile {
        id: "long",
        title: "256-token texts",
        kind: TextKind::Long,
        single: false,
        compared_with: "long",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_compared_profiles_exist() {
        for (index, profile) in PROFILES.iter().enumerate() {
            assert!(PROFILES[..index].iter().all(|other| other.id != profile.id), "{}", profile.id);
        }
        for job in &LIBRARY_PROFILES {
            assert!(PROFILES.iter().any(|profile| profile.id == job.compared_with), "{}", job.id);
        }
    }
}
