//! Which process belongs to which worker: pure arithmetic on a table of `/proc/PID/stat`.
//!
//! A worker's tree is what descends from its leader, and what shares a group or a session with one that does (so a child that was
//! reparented is found), again with all that descends from those. Our own group and session tie nobody together: every worker was
//! born in them.

use std::collections::HashMap;

use super::procfs::Stat;
use crate::cluster::words::Pid;

/// For each process of the table the index of the leader whose tree it is in. Descent counts before group and session, so that a
/// process that joined the group of another worker stays with its own; nobody is in two trees, and `own` is in none.
///
/// `marked` are processes that say by themselves whose they are: pid, and index of the leader.
pub fn owners(stats: &[Stat], leaders: &[Pid], marked: &[(Pid, usize)], own: Pid) -> Vec<Option<usize>> {
    let mut search = Search::new(stats, own);
    search.descend(leaders);
    search.claim_marked(marked);
    search.spread(leaders);
    search.owners
}

/// Indices into the table, by what ties processes together.
type Ties = HashMap<Pid, Vec<usize>>;

/// Each entry of the maps is taken out when it is walked, so all of this is linear in the number of processes.
struct Search<'a> {
    stats: &'a [Stat],
    own: Pid,
    children: Ties,
    groups: Ties,
    sessions: Ties,
    owners: Vec<Option<usize>>,
    /// Owned processes in the order in which they were found.
    found: Vec<(&'a Stat, usize)>,
}

impl<'a> Search<'a> {
    fn new(stats: &'a [Stat], own: Pid) -> Self {
        let home = stats.iter().find(|stat| stat.pid == own);
        // 0: led from outside the PID namespace, as ours may be.
        let (group, session) = home.map_or((Pid(0), Pid(0)), |home| (home.group, home.session));
        let ties = |tie: fn(&Stat) -> Pid, home: Pid| {
            let mut ties = Ties::new();
            for (index, stat) in stats.iter().enumerate().filter(|(_, stat)| tie(stat) != home && tie(stat) != Pid(0)) {
                ties.entry(tie(stat)).or_default().push(index);
            }
            ties
        };
        Self {
            stats,
            own,
            children: ties(|stat| stat.parent, own),
            groups: ties(|stat| stat.group, group),
            sessions: ties(|stat| stat.session, session),
            owners: vec![None; stats.len()],
            found: Vec::new(),
        }
    }

    /// The leaders, and all that descends from them.
    fn descend(&mut self, leaders: &[Pid]) {
        let trees: HashMap<Pid, usize> = leaders.iter().enumerate().map(|(owner, leader)| (*leader, owner)).collect();
        for (index, stat) in self.stats.iter().enumerate() {
            if let Some(owner) = trees.get(&stat.pid) {
                self.claim(vec![index], *owner);
            }
        }
        let mut next = 0;
        while let Some((stat, owner)) = self.found.get(next).copied() {
            let children = self.children.remove(&stat.pid);
            self.claim(children.unwrap_or_default(), owner);
            next += 1;
        }
    }

    fn claim_marked(&mut self, marked: &[(Pid, usize)]) {
        let owner_of: HashMap<Pid, usize> = marked.iter().copied().collect();
        for (index, stat) in self.stats.iter().enumerate() {
            if let Some(owner) = owner_of.get(&stat.pid) {
                self.claim(vec![index], *owner);
            }
        }
    }

    /// All that is tied to those in any way; also to a leader that has gone itself.
    fn spread(&mut self, leaders: &[Pid]) {
        for (owner, leader) in leaders.iter().enumerate() {
            let led = [self.groups.remove(leader), self.sessions.remove(leader)];
            led.into_iter().flatten().for_each(|members| self.claim(members, owner));
        }
        let mut next = 0;
        while let Some((stat, owner)) = self.found.get(next).copied() {
            let ties = [self.children.remove(&stat.pid), self.groups.remove(&stat.group), self.sessions.remove(&stat.session)];
            ties.into_iter().flatten().for_each(|members| self.claim(members, owner));
            next += 1;
        }
    }

    fn claim(&mut self, members: Vec<usize>, owner: usize) {
        for index in members {
            let (Some(stat), Some(place)) = (self.stats.get(index), self.owners.get_mut(index)) else { continue };
            if place.is_none() && stat.pid != self.own {
                *place = Some(owner);
                self.found.push((stat, owner));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `pid, parent, group, session`.
    fn table(rows: &[[i32; 4]]) -> Vec<Stat> {
        let stat = |[pid, parent, group, session]: &[i32; 4]| Stat {
            pid: Pid(*pid),
            name: String::new(),
            state: 'S',
            parent: Pid(*parent),
            group: Pid(*group),
            session: Pid(*session),
            cpu_ticks: 0,
            start: 0,
            resident_pages: 1,
            threads: 1,
        };
        rows.iter().map(stat).collect()
    }

    /// The pids of each leader's tree, in the order of the table.
    fn trees(rows: &[[i32; 4]], leaders: &[i32]) -> Vec<Vec<i32>> {
        let leaders: Vec<Pid> = leaders.iter().copied().map(Pid).collect();
        let owners = owners(&table(rows), &leaders, &[], Pid(1));
        let of = |owner| rows.iter().zip(&owners).filter(|(_, found)| **found == Some(owner)).map(|(row, _)| row[0]).collect();
        (0..leaders.len()).map(of).collect()
    }

    #[test]
    fn a_tree_is_what_descends_from_its_leader() {
        let rows = [[1, 0, 1, 1], [7, 1, 7, 1], [8, 1, 8, 1], [9, 7, 7, 1], [10, 9, 10, 10], [11, 8, 8, 1], [12, 10, 10, 10]];
        assert_eq!(trees(&rows, &[7, 8]), [vec![7, 9, 10, 12], vec![8, 11]]);
    }

    #[test]
    fn a_stray_that_carries_a_mark_belongs_to_its_leader_with_its_children() {
        let stats = table(&[[1, 0, 1, 1], [7, 1, 7, 1], [9, 1, 9, 9], [10, 9, 9, 9], [11, 1, 11, 11]]);
        assert_eq!(owners(&stats, &[Pid(7)], &[(Pid(9), 0)], Pid(1)), [None, Some(0), Some(0), Some(0), None]);
    }

    #[test]
    fn the_session_and_the_group_of_pid_1_tie_nobody() {
        let rows = [[1, 0, 1, 1], [7, 1, 1, 1], [8, 1, 1, 1], [9, 1, 1, 1]];
        assert_eq!(trees(&rows, &[7, 8]), [vec![7], vec![8]]);
        let led_from_outside = [[1, 0, 0, 0], [7, 1, 0, 0], [8, 1, 0, 0], [30, 0, 0, 0]];
        assert_eq!(trees(&led_from_outside, &[7, 8]), [vec![7], vec![8]]);
    }

    #[test]
    fn a_reparented_child_is_found_by_group_and_by_session() {
        // 20 lost its parent and kept the group; 21 made a session of its own before that, and left 22 in it.
        let rows =
            [[1, 0, 1, 1], [7, 1, 7, 1], [20, 1, 7, 1], [21, 7, 21, 21], [22, 1, 22, 21], [23, 22, 23, 23], [24, 1, 24, 24]];
        assert_eq!(trees(&rows, &[7]), [vec![7, 20, 21, 22, 23]]);
    }

    #[test]
    fn what_is_left_of_a_leader_that_has_gone_is_still_its_tree() {
        let rows = [[1, 0, 1, 1], [8, 1, 7, 1], [9, 8, 9, 1]];
        assert_eq!(trees(&rows, &[7]), [vec![8, 9]]);
    }

    #[test]
    fn a_process_in_the_group_of_another_worker_stays_with_its_own() {
        let rows = [[1, 0, 1, 1], [7, 1, 7, 1], [8, 1, 8, 1], [9, 8, 7, 1]];
        assert_eq!(trees(&rows, &[7, 8]), [vec![7], vec![8, 9]]);
    }

    proptest! {
        #[test]
        fn any_table_is_answered_and_leaders_own_themselves(
            rows in proptest::collection::vec((2..40i32, 0..40i32, 0..40i32, 0..40i32), 0..60)
        ) {
            let mut rows: Vec<[i32; 4]> = rows.into_iter().map(|(pid, parent, group, session)| [pid, parent, group, session]).collect();
            rows.push([1, 0, 1, 1]);
            rows.push([50, 1, 50, 1]);
            rows.push([51, 1, 51, 1]);
            let trees = trees(&rows, &[50, 51]);
            prop_assert!(trees[0].contains(&50) && trees[1].contains(&51));
            prop_assert!(!trees.concat().contains(&1));
        }
    }
}
