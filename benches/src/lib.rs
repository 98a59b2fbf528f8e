//! Benches: each peer and Mainstay on the same work, in one run, in turns.
//!
//! They print figures and never judge: a machine that others use too would make any verdict a lottery. What can be
//! compared is what was measured in one run, and best the processor time per request, which waits for no one.

pub mod cpu;
pub mod load;
pub mod memory;
pub mod paced;
pub mod running;
pub mod table;
