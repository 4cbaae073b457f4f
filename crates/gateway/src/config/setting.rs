//! The declaration of one setting, and the macro that turns the declarations of `settings.rs` into structs.

use std::cmp::Ordering;

use super::value::Value;

/// A table of the settings file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// The top of the file.
    Top,
    /// The table of this name.
    Named(&'static str),
    /// The `[[models]]` entry at this position.
    Model(usize),
}

/// Settings of one table: its heading in the help, and the form of its flags.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section {
    table: Table,
    heading: &'static str,
    prefix: &'static str,
}

impl Section {
    pub(super) const fn new(table: Table, heading: &'static str) -> Self {
        Self { table, heading, prefix: "" }
    }

    /// The settings of the table `[name]`.
    pub(super) const fn table(name: &'static str, heading: &'static str) -> Self {
        Self::new(Table::Named(name), heading)
    }

    /// Puts `prefix` before the keys to make flags of them: `memory` becomes `--cache-memory` by `cache_`.
    pub(super) const fn prefix(mut self, prefix: &'static str) -> Self {
        self.prefix = prefix;
        self
    }
}

/// The declaration of one setting.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Table of the settings file that holds it.
    pub table: Table,
    /// Key in that table.
    pub key: &'static str,
    /// Heading of its flag in the help.
    pub heading: &'static str,
    /// Placeholder for its value in the help.
    pub placeholder: &'static str,
    /// Value for the shipped file, in TOML, if there is no default.
    pub example: Option<&'static str>,
    /// True if its flag may be repeated.
    pub is_list: bool,
    /// True if its flag needs no value.
    pub is_switch: bool,
    /// True if the short help (`-h`) leaves it out.
    pub is_advanced: bool,
    /// True if its value may hold a password, so that no message quotes it.
    pub is_secret: bool,
    /// Variable of other programs that is read after its own.
    pub shared_variable: Option<&'static str>,
    help: &'static str,
    prefix: &'static str,
    flag: Option<&'static str>,
    variable: Option<&'static str>,
    min: u64,
    max: Option<u64>,
    expected: fn() -> String,
    format: fn(u64) -> String,
}

impl Setting {
    /// Declares the setting `key` of type `T`.
    pub(super) const fn new<T: Value>(section: Section, key: &'static str, help: &'static str) -> Self {
        Self {
            table: section.table,
            key,
            heading: section.heading,
            placeholder: T::PLACEHOLDER,
            example: None,
            is_list: T::IS_LIST,
            is_switch: T::IS_SWITCH,
            is_advanced: false,
            is_secret: false,
            shared_variable: None,
            help,
            prefix: section.prefix,
            flag: Some(key),
            variable: None,
            min: 0,
            max: T::MAX,
            expected: T::expected,
            format: T::format_number,
        }
    }

    /// Sets the smallest number: a count, a size in bytes, or a time in milliseconds.
    pub(super) const fn min(mut self, min: u64) -> Self {
        self.min = min;
        self
    }

    /// Sets the largest number, in the unit of [`Self::min`].
    pub(super) const fn max(mut self, max: u64) -> Self {
        self.max = Some(max);
        self
    }

    /// Leaves the flag out of the short help.
    pub(super) const fn advanced(mut self) -> Self {
        self.is_advanced = true;
        self
    }

    /// Keeps the value out of messages.
    pub(super) const fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }

    /// Names flag and variable otherwise than the key, in the spelling of keys.
    pub(super) const fn flag(mut self, flag: &'static str) -> Self {
        self.prefix = "";
        self.flag = Some(flag);
        self
    }

    /// Takes the value from no flag.
    pub(super) const fn no_flag(mut self) -> Self {
        self.flag = None;
        self
    }

    /// Names the variable otherwise than the flag.
    pub(super) const fn variable(mut self, variable: &'static str) -> Self {
        self.variable = Some(variable);
        self
    }

    /// Reads a variable of other programs, too.
    pub(super) const fn shared_variable(mut self, variable: &'static str) -> Self {
        self.shared_variable = Some(variable);
        self
    }

    /// Sets the placeholder for the value in the help.
    pub(super) const fn placeholder(mut self, placeholder: &'static str) -> Self {
        self.placeholder = placeholder;
        self
    }

    /// Sets the value that the shipped file shows.
    pub(super) const fn example(mut self, example: &'static str) -> Self {
        self.example = Some(example);
        self
    }

    /// Returns the key with its table, as messages name it.
    pub fn qualified_key(&self) -> String {
        match self.table {
            Table::Top => self.key.to_owned(),
            Table::Named(table) => format!("{table}.{}", self.key),
            Table::Model(_) => format!("models.{}", self.key),
        }
    }

    /// Returns the flag without its dashes.
    pub fn flag_name(&self) -> Option<String> {
        self.flag.map(|flag| format!("{}{flag}", self.prefix).replace('_', "-"))
    }

    /// Returns the name of the variable.
    pub fn variable_name(&self) -> Option<String> {
        let of_flag = || self.flag.map(|flag| format!("EMBEDGATE_{}{flag}", self.prefix).to_uppercase());
        self.variable.map(str::to_owned).or_else(of_flag)
    }

    /// Returns the help text: sentences, the last one without its full stop.
    pub fn help(&self) -> String {
        let help = self.help.trim().trim_end_matches('.');
        help.replace("{values}", &(self.expected)().replace('"', "`"))
    }

    /// Returns the largest value that is allowed, in TOML, if the setting is a number.
    pub fn max_toml(&self) -> Option<String> {
        self.max.map(self.format)
    }

    /// Describes what may be written as a `T`, within the bounds.
    pub(super) fn expected<T: Value>(&self) -> String {
        let expected = T::expected();
        if self.min == 0 { expected } else { format!("{expected}, at least {}", (self.format)(self.min)) }
    }

    /// Compares numbers with the bounds: `Less` if one is too small, `Greater` if one is too large.
    pub(super) fn compare(&self, numbers: &[u64]) -> Ordering {
        if numbers.iter().any(|number| *number < self.min) {
            Ordering::Less
        } else if numbers.iter().any(|number| self.max.is_some_and(|max| *number > max)) {
            Ordering::Greater
        } else {
            Ordering::Equal
        }
    }
}

/// Makes a struct of one section's declarations: a field for each setting with its doc comment, the list `SETTINGS`,
/// and the function `resolve`, which asks the [`Resolver`](super::resolver::Resolver) for every field.
///
/// `given` names fields that are no settings, `context` a parameter for defaults that depend on other settings.
macro_rules! settings {
    (
        $(#[doc = $about:literal])+
        $visibility:vis struct $name:ident in $section:ident
        $(, given($($(#[doc = $given_doc:literal])+ $given:ident: $given_type:ty),+))?
        $(, context($context:ident: $context_type:ty))?
        {
            $(
                $(#[doc = $help:literal])+
                $key:ident: $type:ty = $default:expr $(, $option:ident $(($argument:expr))?)*;
            )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        $visibility struct $name {
            $($($(#[doc = $given_doc])+ $visibility $given: $given_type,)+)?
            $($(#[doc = $help])+ $visibility $key: $type,)+
        }

        impl $name {
            /// The declarations, in the order of the file.
            pub(super) const SETTINGS: &'static [Setting] = &[$(
                Setting::new::<$type>($section, stringify!($key), concat!($($help),+))
                    $(.$option($($argument)?))*
            ),+];

            /// Resolves every setting.
            pub(super) fn resolve(
                resolver: &mut Resolver<'_>
                $($(, $given: $given_type)+)?
                $(, $context: $context_type)?
            ) -> Self {
                Self {
                    $($($given,)+)?
                    $($key: {
                        const SETTING: &Setting =
                            &Setting::new::<$type>($section, stringify!($key), concat!($($help),+))
                                $(.$option($($argument)?))*;
                        resolver.value(SETTING, $default)
                    },)+
                }
            }
        }
    };
}

pub(super) use settings;
