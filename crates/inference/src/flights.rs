//! What is being computed, by its ids: equal sequences of all requests in flight meet here, and in the cache.
//!
//! A vector goes into the cache before its sequence leaves this map, and both are asked under one lock. So a
//! sequence that was begun is not begun again, as long as the cache holds it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    cache::Memory,
    item::{Found, Item},
    job::Work,
};

/// The sequences in flight. Keys are the ids themselves, compared as such: a hash alone could give one text the
/// vector of another. The map hashes with a random key, so nobody can choose texts that collide.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    items: Mutex<HashMap<Arc<[u32]>, Arc<Item>>>,
}

/// What became of a job's sequences.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    /// Vectors that the cache holds, by position.
    pub(crate) hits: Vec<(usize, Arc<[f32]>)>,
    /// Items to queue a reference to: new ones, and those of others that wait.
    pub(crate) items: Vec<Arc<Item>>,
    /// Number of new items.
    pub(crate) new: usize,
    /// Sequences that another one in flight stands for.
    pub(crate) shared: usize,
    /// Whether one of these is being computed already.
    pub(crate) running: bool,
}

impl Flights {
    /// Finds or begins each of `sequences` (position and ids) for `work`, and adds what it found to `joined`.
    pub(crate) fn join<'ids>(
        &self,
        sequences: impl IntoIterator<Item = (usize, &'ids [u32])>,
        work: &Arc<Work>,
        memory: Option<&Memory>,
        joined: &mut Joined,
    ) {
        let mut items = self.lock();
        for (position, ids) in sequences {
            if let Some(item) = items.get(ids) {
                joined.shared += 1;
                match item.subscribe(work, position) {
                    Found::Waiting => joined.items.push(Arc::clone(item)),
                    Found::Again => {}
                    Found::Running => joined.running = true,
                }
            } else if let Some(vector) = memory.and_then(|memory| memory.get(ids)) {
                joined.hits.push((position, vector));
            } else {
                let item = Item::new(ids.into(), work, position, false);
                items.insert(Arc::clone(item.ids()), Arc::clone(&item));
                joined.items.push(item);
                joined.new += 1;
            }
        }
    }

    /// Takes out `done`: whoever comes from here on finds them in the cache, or begins anew.
    pub(crate) fn land<'items>(&self, done: impl IntoIterator<Item = &'items Arc<Item>>) {
        let mut items = self.lock();
        for item in done {
            remove(&mut items, item);
        }
    }

    /// Takes out those of `left` that nobody waits for any more. One that a job has joined meanwhile stays.
    pub(crate) fn release(&self, left: &[Arc<Item>]) {
        if left.is_empty() {
            return;
        }
        let mut items = self.lock();
        for item in left.iter().filter(|item| !item.is_taken() && !item.is_wanted()) {
            remove(&mut items, item);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<[u32]>, Arc<Item>>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes this very item: another one may have begun in its place.
fn remove(items: &mut HashMap<Arc<[u32]>, Arc<Item>>, item: &Arc<Item>) {
    if items.get(&**item.ids()).is_some_and(|found| Arc::ptr_eq(found, item)) {
        items.remove(&**item.ids());
    }
}
