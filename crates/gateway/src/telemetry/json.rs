//! One JSON object per line. The fields of the request's span are at the same level as those of the event, so that
//! `request` and `trace_id` have the same path in every line.

use std::fmt::{self, Debug};

use serde::Serialize;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormattedFields,
        format::{JsonFields, Writer},
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

/// Formatter of events. Their spans' fields must be formatted by [`JsonFields`].
pub(super) struct JsonLines;

impl<S> FormatEvent<S, JsonFields> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        writer.write_str("{\"timestamp\":\"")?;
        SystemTime.format_time(&mut writer)?;
        write!(writer, "\",\"level\":\"{}\",\"target\":", metadata.level())?;
        json(&mut writer, metadata.target())?;
        let mut fields = Fields { writer: &mut writer, result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            // The fields are a JSON object; its braces are removed.
            let object =
                extensions.get::<FormattedFields<JsonFields>>().map_or("", |fields| fields.fields.as_str());
            let members = object.trim_start_matches('{').strip_suffix('}').unwrap_or_default();
            if !members.is_empty() {
                write!(writer, ",{members}")?;
            }
        }
        writer.write_str("}\n")
    }
}

/// Writes an event's fields in their order, each after a comma.
struct Fields<'a, 'w> {
    writer: &'a mut Writer<'w>,
    result: fmt::Result,
}

impl Fields<'_, '_> {
    fn write(&mut self, field: &Field, value: impl Serialize) {
        if self.result.is_ok() {
            self.result = self.try_write(field, value);
        }
    }

    fn try_write(&mut self, field: &Field, value: impl Serialize) -> fmt::Result {
        self.writer.write_char(',')?;
        json(self.writer, field.name())?;
        self.writer.write_char(':')?;
        json(self.writer, value)
    }
}

impl Visit for Fields<'_, '_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.write(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.write(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.write(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.write(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.write(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.write(field, format!("{value:?}"));
    }
}

fn json(writer: &mut Writer<'_>, value: impl Serialize) -> fmt::Result {
    writer.write_str(&serde_json::to_string(&value).map_err(|_| fmt::Error)?)
}
