//! Commits against the stores' twins: what is published is what was written, once, whatever fails.

mod ahead;
mod charges;
mod clock;
mod collect;
mod damage;
mod elsewhere;
mod faults;
mod follow;
mod gone;
mod guard;
mod mass;
mod meddled;
mod model;
mod others;
mod pinned;
mod power;
mod queue;
mod rig;
mod shared;
mod slow;
mod stall;
mod trees;
