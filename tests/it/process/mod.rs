//! The program as a process among others: upgrades, the control socket, and what may go wrong around it.

mod control;
mod faults;
mod upgrade;
