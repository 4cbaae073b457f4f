//! A restricted reader of Python's pickle format, protocol 2, in which PyTorch describes the tensors of a file.
//!
//! A pickle is a program for a stack machine that can call any Python function. This reader calls nothing: a call of an
//! allowed function becomes a value ([`Value::Call`]) that its caller interprets, and the name of any other function is
//! an error. Values lie in one list and refer to each other by index, so no input makes the reader recurse.

use std::collections::HashMap;

/// Maximum number of instructions, which bounds values, memo and stack: each instruction adds at most one of each. A
/// tensor takes about 30.
pub(crate) const MAX_INSTRUCTIONS: usize = 1 << 22;

/// Maximum length of a text or of a function's name, in bytes.
const MAX_TEXT_BYTES: usize = 1 << 16;

/// Characters of a name in an error.
const MAX_NAME_IN_ERROR: usize = 100;

/// Python's dictionary that keeps its order: a state dict is one. Always allowed, without arguments.
const ORDERED_DICT: &str = "collections.OrderedDict";

/// A reason why a pickle is not read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PickleError {
    /// It is truncated, or not a valid pickle.
    Damaged(String),
    /// It needs something that this reader does not do.
    Refused(String),
}

/// The index of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ValueId(usize);

/// A value of a pickle.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Value<'p> {
    None,
    Bool,
    Int(i64),
    Float,
    Text(&'p str),
    Tuple(Vec<ValueId>),
    List(Vec<ValueId>),
    Dict(Vec<(ValueId, ValueId)>),
    /// An allowed function or class, as `module.name`.
    Global(&'static str),
    /// The call of an allowed function with a tuple of arguments.
    Call(&'static str, ValueId),
    /// An object outside of the pickle, by its id.
    Persistent(ValueId),
}

/// The values of a pickle.
#[derive(Debug)]
pub(crate) struct Pickle<'p> {
    values: Vec<Value<'p>>,
    root: ValueId,
}

impl<'p> Pickle<'p> {
    /// Reads a pickle that uses no functions or classes but `globals` and `collections.OrderedDict`.
    pub(crate) fn read(bytes: &'p [u8], globals: &[&'static str]) -> Result<Self, PickleError> {
        let mut machine =
            Machine { rest: bytes, values: vec![], stack: vec![], marks: vec![], memo: HashMap::new() };
        for _ in 0..MAX_INSTRUCTIONS {
            let opcode = machine.byte()?;
            if opcode == b'.' {
                let root = machine.pop()?;
                return Ok(Self { values: machine.values, root });
            }
            machine.step(opcode, globals)?;
        }
        Err(PickleError::Refused(format!("its pickle has more than {MAX_INSTRUCTIONS} instructions")))
    }

    pub(crate) fn root(&self) -> &Value<'p> {
        self.get(self.root)
    }

    pub(crate) fn get(&self, id: ValueId) -> &Value<'p> {
        &self.values[id.0]
    }

    /// Returns the elements if the value is a tuple.
    pub(crate) fn tuple(&self, id: ValueId) -> Option<&[ValueId]> {
        match self.get(id) {
            Value::Tuple(elements) => Some(elements),
            _ => None,
        }
    }

    /// Returns the number if the value is one that an index or a size can be.
    pub(crate) fn size(&self, id: ValueId) -> Option<usize> {
        match self.get(id) {
            Value::Int(number) => usize::try_from(*number).ok(),
            _ => None,
        }
    }

    /// Returns the numbers if the value is a tuple of sizes.
    pub(crate) fn sizes(&self, id: ValueId) -> Option<Vec<usize>> {
        self.tuple(id)?.iter().map(|&element| self.size(element)).collect()
    }
}

/// The state between two instructions.
struct Machine<'p> {
    rest: &'p [u8],
    values: Vec<Value<'p>>,
    stack: Vec<ValueId>,
    /// Lengths of the stack at each open mark.
    marks: Vec<usize>,
    memo: HashMap<u32, ValueId>,
}

impl<'p> Machine<'p> {
    fn step(&mut self, opcode: u8, globals: &[&'static str]) -> Result<(), PickleError> {
        match opcode {
            0x80 => match self.byte()? {
                2 => {}
                protocol => {
                    return Err(PickleError::Refused(format!(
                        "its pickle has protocol {protocol}, expected 2"
                    )));
                }
            },
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.push(Value::None),
            0x88 | 0x89 => self.push(Value::Bool),
            b'K' => {
                let number = self.byte()?;
                self.push(Value::Int(number.into()));
            }
            b'M' => {
                let number = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(number.into()));
            }
            b'J' => {
                let number = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(number.into()));
            }
            0x8a => {
                let length = self.byte()?;
                let number = long(self.take(length.into())?)?;
                self.push(Value::Int(number));
            }
            b'G' => {
                self.take(8)?;
                self.push(Value::Float);
            }
            b'X' => {
                let length = u32::from_le_bytes(self.array()?);
                let text = self.text(length as usize)?;
                self.push(Value::Text(text));
            }
            b')' => self.push(Value::Tuple(vec![])),
            0x85..=0x87 => {
                let length = usize::from(opcode - 0x84);
                let start = self.stack.len().checked_sub(length).ok_or_else(empty)?;
                let elements = self.above(start)?;
                self.push(Value::Tuple(elements));
            }
            b't' => {
                let elements = self.above_mark()?;
                self.push(Value::Tuple(elements));
            }
            b']' => self.push(Value::List(vec![])),
            b'a' => {
                let element = self.pop()?;
                self.top_list()?.push(element);
            }
            b'e' => {
                let elements = self.above_mark()?;
                self.top_list()?.extend(elements);
            }
            b'}' => self.push(Value::Dict(vec![])),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.top_dict()?.push((key, value));
            }
            b'u' => {
                let elements = self.above_mark()?;
                let (pairs, rest) = elements.as_chunks();
                if !rest.is_empty() {
                    return Err(damaged("a key without a value"));
                }
                self.top_dict()?.extend(pairs.iter().map(|&[key, value]| (key, value)));
            }
            b'q' => {
                let slot = self.byte()?.into();
                self.remember(slot)?;
            }
            b'r' => {
                let slot = u32::from_le_bytes(self.array()?);
                self.remember(slot)?;
            }
            b'h' => {
                let slot = self.byte()?.into();
                self.recall(slot)?;
            }
            b'j' => {
                let slot = u32::from_le_bytes(self.array()?);
                self.recall(slot)?;
            }
            b'c' => {
                let global = self.global(globals)?;
                self.push(Value::Global(global));
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id));
            }
            b'R' => self.call()?,
            // Attributes of the state dict: versions of its modules, which no tensor depends on.
            b'b' => {
                self.pop()?;
                self.top_dict()?;
            }
            // An object of a class that the instruction names.
            b'i' => {
                self.global(&[])?;
            }
            other => {
                let name = instruction_name(other).map_or_else(|| format!("{other:#04x}"), str::to_owned);
                let reason = "which no dictionary of tensors has";
                return Err(PickleError::Refused(format!("its pickle has the instruction {name}, {reason}")));
            }
        }
        Ok(())
    }

    /// Replaces a function and its arguments by the result.
    fn call(&mut self) -> Result<(), PickleError> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Value::Global(function) = self.values[function.0] else {
            return Err(damaged("a call of a value"));
        };
        let result = match &self.values[arguments.0] {
            Value::Tuple(arguments) if function == ORDERED_DICT => {
                if !arguments.is_empty() {
                    return Err(PickleError::Refused(format!("it calls {ORDERED_DICT} with arguments")));
                }
                Value::Dict(vec![])
            }
            Value::Tuple(_) => Value::Call(function, arguments),
            _ => return Err(damaged("a call without arguments")),
        };
        self.push(result);
        Ok(())
    }

    /// Reads the name of a function or class, which must be allowed.
    fn global(&mut self, globals: &[&'static str]) -> Result<&'static str, PickleError> {
        let (module, name) = (self.line()?, self.line()?);
        let allowed = globals.iter().copied().chain([ORDERED_DICT]);
        let is_named = |global: &&str| {
            let rest = global.as_bytes().strip_prefix(module).and_then(|rest| rest.strip_prefix(b"."));
            rest == Some(name)
        };
        allowed.into_iter().find(is_named).ok_or_else(|| {
            let name = printable(&String::from_utf8_lossy(&[module, b".", name].concat()));
            PickleError::Refused(format!(
                "it wants to load `{name}`, but embedgate does not execute code from a weights file"
            ))
        })
    }

    fn push(&mut self, value: Value<'p>) {
        self.stack.push(ValueId(self.values.len()));
        self.values.push(value);
    }

    /// Takes the top of the stack, which must lie above the last mark.
    fn pop(&mut self) -> Result<ValueId, PickleError> {
        if self.stack.len() <= self.marks.last().copied().unwrap_or(0) {
            return Err(empty());
        }
        self.stack.pop().ok_or_else(empty)
    }

    fn above_mark(&mut self) -> Result<Vec<ValueId>, PickleError> {
        let start = self.marks.pop().ok_or_else(|| damaged("the end of a group without its start"))?;
        self.above(start)
    }

    /// Takes everything from `start` up to the top of the stack, which must lie above the last mark.
    fn above(&mut self, start: usize) -> Result<Vec<ValueId>, PickleError> {
        if start < self.marks.last().copied().unwrap_or(0) || start > self.stack.len() {
            return Err(empty());
        }
        Ok(self.stack.split_off(start))
    }

    fn top(&mut self) -> Result<&mut Value<'p>, PickleError> {
        let id = self.stack.last().ok_or_else(empty)?;
        Ok(&mut self.values[id.0])
    }

    fn top_list(&mut self) -> Result<&mut Vec<ValueId>, PickleError> {
        match self.top()? {
            Value::List(elements) => Ok(elements),
            _ => Err(damaged("an element without its list")),
        }
    }

    fn top_dict(&mut self) -> Result<&mut Vec<(ValueId, ValueId)>, PickleError> {
        match self.top()? {
            Value::Dict(pairs) => Ok(pairs),
            _ => Err(damaged("an item or attribute of a value that is no dictionary")),
        }
    }

    fn remember(&mut self, slot: u32) -> Result<(), PickleError> {
        let id = *self.stack.last().ok_or_else(empty)?;
        self.memo.insert(slot, id);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), PickleError> {
        let id =
            *self.memo.get(&slot).ok_or_else(|| damaged("a reference to a value that was not stored"))?;
        self.stack.push(id);
        Ok(())
    }

    fn take(&mut self, length: usize) -> Result<&'p [u8], PickleError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(|| damaged("no end"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], PickleError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| damaged("no end"))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        self.array().map(|[byte]| byte)
    }

    fn text(&mut self, length: usize) -> Result<&'p str, PickleError> {
        if length > MAX_TEXT_BYTES {
            return Err(PickleError::Refused(format!(
                "its pickle has a text of more than {MAX_TEXT_BYTES} bytes"
            )));
        }
        str::from_utf8(self.take(length)?).map_err(|_| damaged("a text that is not UTF-8"))
    }

    /// Reads up to the end of a line.
    fn line(&mut self) -> Result<&'p [u8], PickleError> {
        let longest = &self.rest[..self.rest.len().min(MAX_TEXT_BYTES)];
        let end = longest.iter().position(|&byte| byte == b'\n').ok_or_else(|| damaged("no end"))?;
        let line = self.take(end)?;
        self.take(1)?;
        Ok(line)
    }
}

/// Converts an integer in two's complement, little-endian, of any length.
fn long(bytes: &[u8]) -> Result<i64, PickleError> {
    let mut number = [if bytes.last().is_some_and(|&last| last >= 0x80) { 0xff } else { 0 }; 8];
    let Some(start) = number.get_mut(..bytes.len()) else {
        return Err(damaged("a number of more than 8 bytes"));
    };
    start.copy_from_slice(bytes);
    Ok(i64::from_le_bytes(number))
}

/// Returns a name from a file for an error: without control characters, and not too long.
pub(crate) fn printable(name: &str) -> String {
    name.chars().take(MAX_NAME_IN_ERROR).collect::<String>().escape_debug().to_string()
}

fn damaged(found: &str) -> PickleError {
    PickleError::Damaged(format!("its pickle has {found}"))
}

fn empty() -> PickleError {
    damaged("an instruction without its operands")
}

/// Names the other instructions of protocol 2.
fn instruction_name(opcode: u8) -> Option<&'static str> {
    Some(match opcode {
        b'0' => "POP",
        b'1' => "POP_MARK",
        b'2' => "DUP",
        b'F' => "FLOAT",
        b'I' => "INT",
        b'L' => "LONG",
        b'P' => "PERSID",
        b'S' => "STRING",
        b'T' => "BINSTRING",
        b'U' => "SHORT_BINSTRING",
        b'V' => "UNICODE",
        b'd' => "DICT",
        b'g' => "GET",
        b'l' => "LIST",
        b'o' => "OBJ",
        b'p' => "PUT",
        0x81 => "NEWOBJ",
        0x82..=0x84 => "EXT",
        0x8b => "LONG4",
        _ => return None,
    })
}
