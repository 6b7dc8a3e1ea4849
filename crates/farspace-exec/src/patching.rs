//! Rewriting hot system call sites of a space: what `farspace-patch` decides is done here.
//!
//! Lock order: patching, then steward. Threads of the guest may run at any time, on code that is being rewritten: each
//! step is seen by all of them before the next (`membarrier`), and a trampoline whose site was undone stays until no
//! vCPU can be inside.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use farspace_abi::RemoteAddr;
use farspace_abi::vcpu::VCPU_CODE;
use farspace_patch::arch::x86_64::{PAGE, WINDOW_MAX};
use farspace_patch::{Landing, Patches, Plan, Refusal, Step, Undone};
use rustix::io::Errno;

use crate::arch::VcpuCode;
use crate::maps::Maps;
use crate::orders::Orders;
use crate::space::Inner;
use crate::{Error, Result};

/// Traps at a site before it is rewritten, which costs about as much as twenty of them.
const HOT: u32 = 8;
/// Sites of which something is noted: a guest with more has its reasons, or none.
const MAX_NOTED: usize = 1 << 16;
/// Calls that don't come back to their site.
const ONE_WAY: [u64; 5] = [
    libc::SYS_exit as u64,
    libc::SYS_exit_group as u64,
    libc::SYS_rt_sigreturn as u64,
    libc::SYS_execve as u64,
    libc::SYS_execveat as u64,
];
/// How far a jump reaches, with room for the trampoline.
const REACH: u64 = (1 << 31) - 0x1_0000;
/// MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE (membarrier(2)), and its registration.
const SYNC_CORE: u64 = 1 << 5;
pub(crate) const REGISTER_SYNC_CORE: u64 = 1 << 6;

/// The patches of a space and what they are decided by.
#[derive(Debug, Default)]
pub(crate) struct Patching {
    pub(crate) maps: Maps,
    patches: Patches,
    /// Traps by site.
    traps: BTreeMap<u64, u32>,
    never: BTreeSet<u64>,
    /// Undone; a vCPU may be inside.
    stale: Vec<Undone>,
    is_off: bool,
}

/// Where a vCPU that has stopped, or is to go on, at an address really is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// There.
    Same,
    /// At the copy of the same instruction, or at what the copy stands for.
    Moved(u64),
}

impl Patching {
    /// What a fork of the space begins with. Nothing is inside of anything there.
    pub(crate) fn fork(&self) -> Self {
        Self {
            maps: self.maps.clone(),
            patches: self.patches.clone(),
            traps: BTreeMap::new(),
            never: self.never.clone(),
            stale: self.stale.clone(),
            is_off: self.is_off,
        }
    }

    /// The original address that one in a trampoline stands for.
    pub(crate) fn origin(&self, ip: u64) -> Place {
        self.patches.origin(ip).map_or(Place::Same, Place::Moved)
    }

    /// True if a vCPU that waits in the engine's code for a call at `site` can go on at `resume`, in its trampoline.
    pub(crate) fn is_live(&self, site: u64, resume: u64) -> bool {
        self.patches.site(site).is_some_and(|site| !site.is_retired() && site.after() == resume)
    }

    /// True if a rewritten byte is there.
    pub(crate) fn has_patch(&self, ip: u64) -> bool {
        self.patches.landing(ip).is_some()
    }

    /// The epoch that a space with these patches begins with: 0 means that there never was one.
    pub(crate) fn first_epoch(&self) -> u32 {
        u32::from(self.patches.sites().next().is_some())
    }

    /// Puts the original bytes over what was read from the space.
    pub(crate) fn overlay(&self, at: RemoteAddr, bytes: &mut [u8]) {
        self.patches.overlay(at.0, bytes);
    }
}

impl Inner {
    pub(crate) fn patching(&self) -> std::sync::MutexGuard<'_, Patching> {
        self.patching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a trap at the site, and rewrites it once it is hot.
    ///
    /// True if it was rewritten.
    pub(crate) fn note_trap(&self, site: u64, nr: u64) -> bool {
        if ONE_WAY.contains(&nr) {
            return false;
        }
        let mut patching = self.patching();
        // Where a trap was is what the guest says.
        if patching.is_off || patching.never.contains(&site) || patching.maps.code_bytes(site) < 2 {
            return false;
        }
        if patching.traps.len() + patching.never.len() >= MAX_NOTED {
            patching.traps.clear();
            patching.never.clear();
        }
        let traps = patching.traps.entry(site).or_default();
        *traps += 1;
        if *traps < HOT {
            return false;
        }
        patching.traps.remove(&site);
        // A site that can't be rewritten goes on trapping.
        match self.rewrite(&mut patching, site) {
            Ok(true) => true,
            Ok(false) | Err(_) => {
                patching.never.insert(site);
                false
            }
        }
    }

    /// Rewrites a site; false if it has to stay as it is.
    fn rewrite(&self, patching: &mut Patching, site: u64) -> Result<bool> {
        let len = patching.maps.code_bytes(site).min(WINDOW_MAX as u64) as usize;
        let mut code = [0; WINDOW_MAX];
        let len = self.mem.read(RemoteAddr(site), &mut code[..len]).unwrap_or(0);
        let code = &mut code[..len];
        patching.patches.overlay(site, code);
        let free = patching.maps.free(site.saturating_sub(REACH)..site.saturating_add(REACH));
        let common = VCPU_CODE + VcpuCode::get().fast;
        let plan = match patching.patches.plan(site, code, common, &free) {
            Ok(plan) => plan,
            Err(Refusal::Overlap { .. }) => {
                self.release(patching);
                return Ok(false);
            }
            Err(_) => return Ok(false),
        };
        self.place(&plan)?;
        let steps = plan.steps();
        if patching.patches.commit(plan).is_err() {
            return Ok(false);
        }
        // Before the first step: who traps in the middle of this looks for it, and waits for the lock.
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.write_steps(&[steps])?;
        Ok(true)
    }

    /// Maps the trampoline's page, if it is the first there, and writes the trampoline.
    fn place(&self, plan: &Plan) -> Result<()> {
        const OPERATION: &str = "map a trampoline";
        if let Some(page) = plan.new_page() {
            let mut orders = Orders::new();
            // PROT_READ | PROT_EXEC; MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
            orders.keep(libc::SYS_mmap, &[page, PAGE, 5, 0x10_0022, u64::MAX, 0]);
            self.steward().order(&orders, OPERATION)?;
        }
        self.poke(plan.site().trampoline().start, plan.trampoline())
    }

    /// Writes the steps of several sites side by side.
    fn write_steps(&self, sites: &[[Step; 6]]) -> Result<()> {
        for number in 0..6 {
            for steps in sites {
                self.poke(steps[number].at, &[steps[number].byte])?;
            }
            self.synchronize()?;
        }
        Ok(())
    }

    fn poke(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.mem.write(RemoteAddr(at), bytes).map_err(|e| Error::Memory {
            operation: "write code",
            at: RemoteAddr(at),
            errno: e.errno,
        })
    }

    /// Returns when every vCPU that runs sees the code as it is now.
    fn synchronize(&self) -> Result<()> {
        if self.is_any_running() {
            let mut orders = Orders::new();
            orders.call(libc::SYS_membarrier, &[SYNC_CORE, 0, 0]);
            self.steward().order(&orders, "synchronize the vCPUs' code")?;
        }
        Ok(())
    }

    /// Puts back the original code in a range whose contents or protection are about to change.
    pub(crate) fn retire(&self, patching: &mut Patching, range: Range<u64>) -> Result<()> {
        while let Some((&at, _)) = patching.traps.range(range.clone()).next() {
            patching.traps.remove(&at);
        }
        while let Some(&at) = patching.never.range(range.clone()).next() {
            patching.never.remove(&at);
        }
        let undone = patching.patches.undo(range);
        if undone.is_empty() {
            return Ok(());
        }
        let steps: Vec<_> = undone.iter().map(|undone| undone.steps).collect();
        let written = self.write_steps(&steps);
        patching.stale.extend(undone);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.release(patching);
        match written {
            // Unmapped by somebody: there is nothing to put back.
            Err(Error::Memory { errno: Errno::IO, .. }) => Ok(()),
            other => other,
        }
    }

    /// Forgets the trampolines of undone sites, if no vCPU can be inside: those that are stopped look where they are
    /// before they go on.
    fn release(&self, patching: &mut Patching) {
        if self.is_any_running() {
            return;
        }
        for undone in std::mem::take(&mut patching.stale) {
            if let Some(page) = patching.patches.release(undone.trampoline.start) {
                let mut orders = Orders::new();
                orders.try_call(libc::SYS_munmap, &[page, PAGE]);
                // Memory that stays mapped is only that.
                let _ = self.steward().order(&orders, "unmap a trampoline");
            }
        }
    }

    /// Where a vCPU that is to go on at `ip`, or has trapped there, has to.
    pub(crate) fn landing(&self, patching: &mut Patching, ip: u64) -> Result<Place> {
        let middle = match patching.patches.landing(ip) {
            None | Some(Landing::Syscall(_)) => return Ok(Place::Same),
            // The original is back.
            Some(Landing::Copy { site, .. } | Landing::Middle(site)) if site.is_retired() => {
                return Ok(Place::Same);
            }
            Some(Landing::Copy { to, .. }) => return Ok(Place::Moved(to)),
            Some(Landing::Middle(site)) => site.patch(),
        };
        self.retire(patching, middle.clone())?;
        patching.never.insert(middle.start);
        Ok(Place::Same)
    }

    /// Undoes everything and rewrites no more: the guest is to be stepped through its own code.
    pub(crate) fn stop_patching(&self) -> Result<()> {
        let mut patching = self.patching();
        patching.is_off = true;
        self.retire(&mut patching, 0..u64::MAX)
    }

    fn is_any_running(&self) -> bool {
        self.running.iter().any(|running| running.load(Ordering::SeqCst))
    }
}
