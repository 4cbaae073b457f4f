//! Declaration of metric families: one entry states a family's name, kind, help, labels and buckets.

use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, core::Collector, exponential_buckets,
};

/// First upper bound and number of a histogram's buckets. Each bound is twice the one before.
pub(super) type Buckets = (f64, usize);

/// Declaration of one family.
pub(super) struct Declaration {
    /// Name without the prefix `embedgate_`.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) labels: &'static [&'static str],
    /// Unused by other kinds than histograms.
    pub(super) buckets: Buckets,
}

impl Declaration {
    fn options(&self) -> Opts {
        Opts::new(self.name, self.help).namespace("embedgate")
    }
}

/// Kind of a family.
pub(super) trait Family: Collector + Clone + 'static {
    fn create(declaration: &Declaration) -> prometheus::Result<Self>;

    /// Creates the family and registers it.
    ///
    /// # Panics
    /// When the name is malformed or declared twice: every name is a literal in `families.rs`, so every start would
    /// fail.
    fn declare(registry: &Registry, declaration: &Declaration) -> Self {
        let family = Self::create(declaration).expect("a family's name and labels are well formed");
        register(registry, family.clone());
        family
    }
}

/// # Panics
/// When a name is declared twice.
pub(super) fn register(registry: &Registry, collector: impl Collector + 'static) {
    registry.register(Box::new(collector)).expect("each family is declared once");
}

macro_rules! impl_family {
    ($($kind:ident::$create:ident($($labels:ident)?)),+) => {$(
        impl Family for $kind {
            fn create(declaration: &Declaration) -> prometheus::Result<Self> {
                Self::$create(declaration.options() $(, declaration.$labels)?)
            }
        }
    )+};
}

impl_family!(
    IntGauge::with_opts(),
    IntCounter::with_opts(),
    IntGaugeVec::new(labels),
    GaugeVec::new(labels),
    IntCounterVec::new(labels)
);

impl Family for HistogramVec {
    fn create(declaration: &Declaration) -> prometheus::Result<Self> {
        let (first, count) = declaration.buckets;
        let buckets = exponential_buckets(first, 2.0, count)?;
        Self::new(HistogramOpts::from(declaration.options()).buckets(buckets), declaration.labels)
    }
}

/// One model's series of a family with the label `model`.
pub(super) trait ModelSeries {
    type Family: Family;

    fn of_model(family: &Self::Family, id: &str) -> Self;
}

impl ModelSeries for Histogram {
    type Family = HistogramVec;

    fn of_model(family: &HistogramVec, id: &str) -> Self {
        family.with_label_values(&[id])
    }
}

impl ModelSeries for IntCounter {
    type Family = IntCounterVec;

    fn of_model(family: &IntCounterVec, id: &str) -> Self {
        family.with_label_values(&[id])
    }
}

impl ModelSeries for IntGauge {
    type Family = IntGaugeVec;

    fn of_model(family: &IntGaugeVec, id: &str) -> Self {
        family.with_label_values(&[id])
    }
}

/// Declares the families under `server` as fields of `Families`, and those under `model`, whose only label is `model`,
/// as fields of `ModelFamilies` and their series of one model as fields of `EngineMetrics`.
macro_rules! families {
    (
        server {
            $($field:ident: $kind:ident {
                name: $name:literal,
                help: $help:literal
                $(, labels: [$($label:literal),+])?
                $(, buckets: $buckets:expr)?
                $(,)?
            })*
        }
        model {
            $($model_field:ident: $series:ident {
                name: $model_name:literal,
                help: $model_help:literal
                $(, buckets: $model_buckets:expr)?
                $(,)?
            })*
        }
    ) => {
        pub(super) struct Families {
            $(pub(super) $field: $kind,)*
            pub(super) models: ModelFamilies,
        }

        pub(super) struct ModelFamilies {
            $($model_field: <$series as ModelSeries>::Family,)*
        }

        /// Series of one model's engine. The label is looked up once, because observations are made for every batch.
        pub(super) struct EngineMetrics {
            $(pub(super) $model_field: $series,)*
        }

        impl Families {
            pub(super) fn new(registry: &Registry) -> Self {
                Self {
                    $($field: $kind::declare(registry, &Declaration {
                        name: $name,
                        help: $help,
                        labels: &[$($($label),+)?],
                        buckets: [$($buckets,)? NO_BUCKETS][0],
                    }),)*
                    models: ModelFamilies::new(registry),
                }
            }
        }

        impl ModelFamilies {
            fn new(registry: &Registry) -> Self {
                Self {
                    $($model_field: <$series as ModelSeries>::Family::declare(registry, &Declaration {
                        name: $model_name,
                        help: $model_help,
                        labels: &["model"],
                        buckets: [$($model_buckets,)? NO_BUCKETS][0],
                    }),)*
                }
            }

            pub(super) fn of_model(&self, id: &str) -> EngineMetrics {
                EngineMetrics { $($model_field: $series::of_model(&self.$model_field, id),)* }
            }
        }
    };
}

pub(super) use families;
