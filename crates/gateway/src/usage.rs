//! Usage of embeddings by API key and model, counted in time buckets since the process started.
//!
//! The counts are in memory, and start at zero with the process. Memory is bounded: at most [`MAX_KEYS`] keys have
//! counts of their own, and each width of buckets keeps a fixed number of them. A query for buckets that were dropped
//! is an error, so that no sum is silently too small.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

/// Number of API keys with counts of their own. All later ones are counted together, as [`OTHER_KEYS`].
const MAX_KEYS: usize = 50;

/// Name of the keys beyond the first [`MAX_KEYS`].
const OTHER_KEYS: &str = "other";

/// Width of a bucket. Buckets are aligned to multiples of their width since 1970, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BucketWidth {
    Minute,
    Hour,
    Day,
}

impl BucketWidth {
    pub(crate) const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Day];

    /// Name in the API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Minute => "1m",
            Self::Hour => "1h",
            Self::Day => "1d",
        }
    }

    fn seconds(self) -> u64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 60 * 60,
            Self::Day => 24 * 60 * 60,
        }
    }

    /// Buckets of a page that states no limit, as in OpenAI's API.
    pub(crate) fn default_limit(self) -> usize {
        match self {
            Self::Minute => 60,
            Self::Hour => 24,
            Self::Day => 7,
        }
    }

    /// Maximum number of buckets of a page, as in OpenAI's API.
    pub(crate) fn max_limit(self) -> usize {
        match self {
            Self::Minute => 1440,
            Self::Hour => 168,
            Self::Day => 31,
        }
    }

    /// Number of buckets with usage that are kept: the largest page, and the current bucket.
    fn kept(self) -> usize {
        self.max_limit() + 1
    }

    /// Start of the bucket that contains `time`.
    fn align(self, time: u64) -> u64 {
        time - time % self.seconds()
    }
}

/// Sums of the requests that were answered with vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UsageCounts {
    pub(crate) requests: u64,
    pub(crate) tokens: u64,
}

impl UsageCounts {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.tokens += other.tokens;
    }
}

/// Query for one page of buckets. All times are in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UsageQuery {
    pub(crate) width: BucketWidth,
    /// A time in the first bucket.
    pub(crate) start: u64,
    /// Buckets that start at or after this time are left out.
    pub(crate) end: Option<u64>,
    /// Maximum number of buckets.
    pub(crate) limit: usize,
    pub(crate) by_key: bool,
    pub(crate) by_model: bool,
    /// Names of the keys to count; all if it is empty.
    pub(crate) keys: Vec<String>,
    /// Ids of the models to count; all if it is empty.
    pub(crate) models: Vec<String>,
}

/// A page of buckets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UsagePage {
    pub(crate) buckets: Vec<UsageBucket>,
    /// Start of the next page's first bucket, if there is one.
    pub(crate) next: Option<u64>,
}

/// The usage in one bucket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UsageBucket {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Empty without usage.
    pub(crate) groups: Vec<UsageGroup>,
}

/// The usage of one group in one bucket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UsageGroup {
    /// The key, if the query groups by keys and the requests had one.
    pub(crate) key: Option<Arc<str>>,
    /// The model, if the query groups by models.
    pub(crate) model: Option<Arc<str>>,
    pub(crate) counts: UsageCounts,
}

/// The query begins before the oldest buckets that are kept.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UsageDropped {
    /// Start of the first complete bucket.
    pub(crate) complete_since: u64,
}

/// Indices of a key and a model in [`UsageState`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct SeriesId {
    key: Option<u16>,
    model: u16,
}

/// Buckets of one width, by their start. Only those with usage exist.
#[derive(Default)]
struct Timeline {
    /// Counts sorted by their series.
    buckets: BTreeMap<u64, Vec<(SeriesId, UsageCounts)>>,
    /// Buckets before this time were dropped.
    complete_since: u64,
}

impl Timeline {
    fn add(&mut self, width: BucketWidth, now: u64, series: SeriesId, counts: UsageCounts) {
        let bucket = self.buckets.entry(width.align(now)).or_default();
        match bucket.binary_search_by_key(&series, |(series, _)| *series) {
            Ok(at) => bucket[at].1.add(counts),
            Err(at) => bucket.insert(at, (series, counts)),
        }
        while self.buckets.len() > width.kept() {
            self.buckets.pop_first();
            self.complete_since = self.buckets.first_key_value().map_or(0, |(start, _)| *start);
        }
    }
}

#[derive(Default)]
struct UsageState {
    keys: Vec<Arc<str>>,
    models: Vec<Arc<str>>,
    timelines: [Timeline; BucketWidth::ALL.len()],
}

impl UsageState {
    /// Index of the key, or of [`OTHER_KEYS`] if there are too many.
    fn key_index(&mut self, name: &str) -> u16 {
        let has_own = self.keys.len() < MAX_KEYS || self.keys.iter().any(|known| **known == *name);
        index_of(&mut self.keys, if has_own { name } else { OTHER_KEYS })
    }
}

/// Index of `name`, which is appended if it is new. Neither keys nor configured models come near 65,536.
fn index_of(names: &mut Vec<Arc<str>>, name: &str) -> u16 {
    let index = names.iter().position(|known| **known == *name).unwrap_or_else(|| {
        names.push(name.into());
        names.len() - 1
    });
    index as u16
}

/// The counts of one process.
pub(crate) struct UsageLedger {
    /// Start of the process, in seconds since 1970.
    started: u64,
    state: Mutex<UsageState>,
}

impl UsageLedger {
    /// Starts to count at `started`, in seconds since 1970.
    pub(crate) fn new(started: u64) -> Self {
        Self { started, state: Mutex::default() }
    }

    /// Counts a request that was answered with vectors at `now`. Returns the name under which its key is counted.
    pub(crate) fn record(&self, now: u64, key: Option<&str>, model: &str, tokens: u64) -> Option<Arc<str>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let key = key.map(|name| state.key_index(name));
        let series = SeriesId { key, model: index_of(&mut state.models, model) };
        for (width, timeline) in BucketWidth::ALL.into_iter().zip(&mut state.timelines) {
            timeline.add(width, now, series, UsageCounts { requests: 1, tokens });
        }
        key.map(|key| Arc::clone(&state.keys[usize::from(key)]))
    }

    /// Returns the buckets of one page, in the order of time. Buckets before the start of the process are left out.
    ///
    /// # Errors
    /// If the query begins before the oldest buckets that are kept.
    pub(crate) fn page(&self, now: u64, query: &UsageQuery) -> Result<UsagePage, UsageDropped> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (width, seconds) = (query.width, query.width.seconds());
        let end = query.end.unwrap_or(u64::MAX).min(now.saturating_add(1));
        let mut start = width.align(query.start.max(self.started));
        let timeline = &state.timelines[width as usize];
        if start < timeline.complete_since && start < end {
            return Err(UsageDropped { complete_since: timeline.complete_since });
        }
        let mut buckets = Vec::new();
        while start < end && buckets.len() < query.limit {
            let groups = timeline.buckets.get(&start).map(|bucket| state.groups(query, bucket));
            buckets.push(UsageBucket { start, end: start + seconds, groups: groups.unwrap_or_default() });
            start += seconds;
        }
        Ok(UsagePage { buckets, next: (start < end).then_some(start) })
    }
}

impl UsageState {
    /// Sums of the groups of one bucket.
    fn groups(&self, query: &UsageQuery, bucket: &[(SeriesId, UsageCounts)]) -> Vec<UsageGroup> {
        let name = |names: &[Arc<str>], index: u16| names.get(usize::from(index)).cloned();
        let is_wanted = |wanted: &[String], found: Option<&Arc<str>>| {
            wanted.is_empty() || found.is_some_and(|found| wanted.iter().any(|name| **name == **found))
        };
        let mut groups = BTreeMap::<(Option<_>, Option<_>), UsageCounts>::new();
        for &(series, counts) in bucket {
            let key = series.key.and_then(|key| name(&self.keys, key));
            let model = name(&self.models, series.model);
            if is_wanted(&query.keys, key.as_ref()) && is_wanted(&query.models, model.as_ref()) {
                let group = (key.filter(|_| query.by_key), model.filter(|_| query.by_model));
                groups.entry(group).or_default().add(counts);
            }
        }
        groups.into_iter().map(|((key, model), counts)| UsageGroup { key, model, counts }).collect()
    }
}

/// The time in seconds since 1970; 0 for a clock before that.
pub(crate) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A midnight.
    const DAY: u64 = 20_000 * 24 * 60 * 60;

    fn query(width: BucketWidth) -> UsageQuery {
        UsageQuery {
            width,
            start: 0,
            end: None,
            limit: width.default_limit(),
            by_key: false,
            by_model: false,
            keys: Vec::new(),
            models: Vec::new(),
        }
    }

    fn group(key: Option<&str>, model: Option<&str>, requests: u64, tokens: u64) -> UsageGroup {
        let counts = UsageCounts { requests, tokens };
        UsageGroup { key: key.map(Arc::from), model: model.map(Arc::from), counts }
    }

    #[test]
    fn usage_is_summed_in_aligned_buckets_of_each_width() {
        let ledger = UsageLedger::new(DAY + 30);
        ledger.record(DAY + 59, Some("a"), "m", 5);
        ledger.record(DAY + 60, Some("b"), "m", 7);
        ledger.record(DAY + 3600, None, "n", 11);
        let page = |width| ledger.page(DAY + 3601, &query(width)).unwrap();
        let minutes = page(BucketWidth::Minute);
        let bounds = |bucket: &UsageBucket| (bucket.start, bucket.end);
        assert_eq!((minutes.buckets.len(), minutes.next), (60, Some(DAY + 3600)));
        assert_eq!(bounds(&minutes.buckets[0]), (DAY, DAY + 60));
        assert_eq!(minutes.buckets[0].groups, [group(None, None, 1, 5)]);
        assert_eq!(minutes.buckets[1].groups, [group(None, None, 1, 7)]);
        assert_eq!(minutes.buckets[2].groups, []);
        let hours = page(BucketWidth::Hour);
        let groups: Vec<_> = hours.buckets.iter().map(|bucket| &bucket.groups[0].counts).collect();
        let counts = |requests, tokens| UsageCounts { requests, tokens };
        assert_eq!((groups, hours.next), (vec![&counts(2, 12), &counts(1, 11)], None));
        let days = page(BucketWidth::Day);
        assert_eq!(days.buckets.iter().map(bounds).collect::<Vec<_>>(), [(DAY, DAY + 86_400)]);
        assert_eq!(days.buckets[0].groups, [group(None, None, 3, 23)]);
    }

    #[test]
    fn usage_is_grouped_and_filtered_by_key_and_model() {
        let ledger = UsageLedger::new(DAY);
        for (key, model, tokens) in [
            (Some("b"), "m", 1),
            (Some("a"), "n", 2),
            (Some("a"), "m", 4),
            (None, "m", 8),
            (Some("a"), "m", 16),
        ] {
            ledger.record(DAY, key, model, tokens);
        }
        let groups = |change: fn(&mut UsageQuery)| {
            let mut query = query(BucketWidth::Day);
            change(&mut query);
            ledger.page(DAY, &query).unwrap().buckets.remove(0).groups
        };
        assert_eq!(
            groups(|query| query.by_key = true),
            [group(None, None, 1, 8), group(Some("a"), None, 3, 22), group(Some("b"), None, 1, 1)]
        );
        assert_eq!(
            groups(|query| query.by_model = true),
            [group(None, Some("m"), 4, 29), group(None, Some("n"), 1, 2)]
        );
        assert_eq!(groups(|query| query.keys = vec!["a".to_owned()]), [group(None, None, 3, 22)]);
        let both = groups(|query| {
            (query.by_key, query.by_model) = (true, true);
            (query.keys, query.models) = (vec!["a".to_owned(), "b".to_owned()], vec!["m".to_owned()]);
        });
        assert_eq!(both, [group(Some("a"), Some("m"), 2, 20), group(Some("b"), Some("m"), 1, 1)]);
        assert_eq!(groups(|query| query.models = vec!["other".to_owned()]), []);
    }

    #[test]
    fn pages_cover_a_range_without_overlap() {
        let ledger = UsageLedger::new(DAY);
        for minute in 0..10 {
            ledger.record(DAY + 60 * minute, None, "m", 1 << minute);
        }
        let mut query = UsageQuery { limit: 3, end: Some(DAY + 8 * 60), ..query(BucketWidth::Minute) };
        query.start = DAY + 61;
        let (mut sizes, mut tokens) = (Vec::new(), 0);
        loop {
            let page = ledger.page(DAY + 600, &query).unwrap();
            sizes.push(page.buckets.len());
            tokens += page.buckets.iter().map(|bucket| bucket.groups[0].counts.tokens).sum::<u64>();
            let Some(next) = page.next else { break };
            query.start = next;
        }
        // The buckets of the minutes 1 to 7.
        assert_eq!((sizes, tokens), (vec![3, 3, 1], 0b1111_1110));
    }

    #[test]
    fn buckets_before_the_start_and_after_now_are_left_out() {
        let ledger = UsageLedger::new(DAY + 90);
        let query = UsageQuery { end: Some(u64::MAX), ..query(BucketWidth::Minute) };
        let page = ledger.page(DAY + 180, &query).unwrap();
        let starts: Vec<_> = page.buckets.iter().map(|bucket| bucket.start - DAY).collect();
        assert_eq!((starts, page.next), (vec![60, 120, 180], None));
        let future = UsageQuery { start: DAY + 240, ..query };
        assert_eq!(ledger.page(DAY + 180, &future).unwrap().buckets, []);
    }

    #[test]
    fn a_query_for_dropped_buckets_is_an_error_that_says_since_when_usage_is_complete() {
        let ledger = UsageLedger::new(DAY);
        let (width, last) = (BucketWidth::Minute, DAY + 60 * 1441);
        for time in (DAY..=last).step_by(60) {
            ledger.record(time, None, "m", 1);
        }
        let dropped = ledger.page(last, &query(width));
        assert_eq!(dropped, Err(UsageDropped { complete_since: DAY + 60 }));
        let kept = ledger.page(last, &UsageQuery { start: DAY + 60, limit: 2000, ..query(width) }).unwrap();
        assert_eq!(kept.buckets.len(), width.kept());
        assert!(kept.buckets.iter().all(|bucket| bucket.groups.len() == 1));
        // The wider buckets still have all of it.
        let hours = ledger.page(last, &query(BucketWidth::Hour)).unwrap();
        assert_eq!(hours.buckets[0].groups, [group(None, None, 60, 60)]);
    }

    #[test]
    fn keys_beyond_the_maximum_are_counted_together() {
        let ledger = UsageLedger::new(DAY);
        let label = |key: &str| ledger.record(DAY, Some(key), "m", 1).unwrap().to_string();
        for number in 0..MAX_KEYS {
            assert_eq!(label(&format!("key-{number}")), format!("key-{number}"));
        }
        assert_eq!([label("late"), label("key-0"), label("later")], ["other", "key-0", "other"]);
        let page = ledger.page(DAY, &UsageQuery { by_key: true, ..query(BucketWidth::Day) }).unwrap();
        let groups = &page.buckets[0].groups;
        assert_eq!(groups.len(), MAX_KEYS + 1);
        assert!(groups.contains(&group(Some("other"), None, 2, 2)));
        assert!(groups.contains(&group(Some("key-0"), None, 2, 2)));
    }
}
