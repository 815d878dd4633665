//! The scenarios: written once, run on the local cluster and on the real Mesos. I/O.
//!
//! Each is a story with real processes: etcd, the operator's binary, redis-servers. At its end every
//! node's own words must agree with the status, no task may run that is not recorded, planning again
//! must give nothing, and once the instances are deleted nothing may be left ([`world::World::finish`]).

#[path = "../support/mod.rs"]
mod support;

mod agents;
mod client;
mod cluster;
mod control;
mod deaths;
mod document;
mod doubled;
mod failover;
mod faults;
mod framework;
mod lifecycle;
mod nodes;
mod operator;
mod passwords;
mod restarts;
mod sentinel;
mod settings;
mod sharing;
mod strangers;
mod world;

/// Makes a test of each scenario for each kind of cluster.
macro_rules! scenarios {
    ($($module:ident: $($name:ident),+ $(,)?;)+) => {
        scenarios_on! { local Local: $($module: $($name),+;)+ }
        scenarios_on! { mesos Mesos: $($module: $($name),+;)+ }
    };
}

macro_rules! scenarios_on {
    ($tests:ident $kind:ident: $($module:ident: $($name:ident),+;)+) => {
        mod $tests {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$module::$name(crate::cluster::Kind::$kind).await;
                }
            )+)+
        }
    };
}

// Servers that are none, and many.
scenarios_on! {
    local_many Local:
    doubled: a_hundred_instances_delay_nobody;
}

// What goes wrong on demand: only the local cluster does that.
scenarios_on! {
    local_faults Local:
    faults:
        updates_that_are_late_doubled_and_out_of_order_change_nothing,
        updates_that_are_lost_are_asked_for,
        a_stream_that_breaks_at_any_byte_loses_nothing,
        launches_and_answers_that_get_lost_are_found_out,
        offers_that_are_taken_back_cost_nothing_but_time,
        a_master_that_answers_nobody_is_waited_for;
}

// What is shared with others: the local cluster is nobody else's.
scenarios_on! {
    mesos_shared Mesos:
    sharing:
        what_finds_no_place_is_told_why_agent_by_agent,
        of_several_roles_what_is_reserved_for_one_is_used_first,
        agents_that_nobody_can_use_are_not_offered,
        nodes_are_spread_over_zones_and_go_to_another_region_if_that_is_wanted;
}

// What an administrator says of an agent that is away: the local cluster knows no such call.
scenarios_on! {
    mesos_gone Mesos:
    agents:
        a_master_that_an_administrator_calls_gone_while_it_lives_is_fenced_before_another_takes_its_place;
}

scenarios! {
    agents:
        a_deactivated_agent_is_left_by_a_switchover_before_anything_is_killed,
        maintenance_is_agreed_to_when_nothing_is_left_on_the_agent,
        a_drained_agent_costs_no_acknowledged_write_and_the_drain_comes_to_its_end;
    lifecycle:
        a_document_put_into_etcd_becomes_a_replicated_redis_on_three_racks,
        replicas_are_added_and_removed_but_never_the_master,
        configuration_changes_live_or_by_replacing_every_node,
        a_deleted_name_can_be_used_again_at_once,
        a_wrong_document_leaves_the_last_good_one_in_force,
        what_does_not_fit_waits_with_a_reason_and_goes_on_with_a_further_agent,
        twenty_instances_at_once_all_become_ready;
    nodes:
        a_replica_that_dies_is_replaced,
        nodes_of_a_dead_machine_are_replaced_after_the_time_that_the_spec_says,
        a_node_on_a_lost_agent_that_returns_in_time_is_taken_back,
        a_node_on_a_lost_agent_that_returns_too_late_leaves_no_surplus,
        a_machine_that_hangs_and_wakes_leaves_no_surplus_node,
        a_deletion_that_waits_for_a_lost_machine_says_when_it_tells_how_to_give_that_up,
        an_instance_that_lost_every_node_starts_again_empty_and_says_so,
        an_instance_that_is_held_after_data_loss_waits_for_recreate;
    failover:
        a_master_that_is_killed_is_replaced_by_a_replica_and_no_confirmed_write_is_lost,
        the_most_caught_up_replica_takes_the_place_of_a_dead_master_once_all_are_in_sight,
        when_too_few_are_left_to_be_sure_nobody_is_promoted_but_by_force,
        without_a_promise_the_only_one_left_is_promoted_at_once,
        a_master_whose_machine_dies_is_replaced_and_leaves_nothing_when_the_machine_returns,
        a_master_whose_machine_hangs_is_replaced_and_doubles_nothing_when_it_wakes,
        a_hung_master_is_replaced_only_after_it_must_have_stopped_taking_writes,
        what_a_replaced_master_took_when_it_woke_is_reported_and_its_clients_are_cut,
        a_hung_master_that_wakes_in_time_stays_the_master,
        a_busy_master_is_not_replaced,
        replicas_that_are_busy_with_a_script_do_not_hold_up_a_failover_for_longer_than_redis_does,
        a_switchover_under_load_loses_no_acknowledged_write,
        an_operator_killed_amid_failovers_leaves_one_master_and_every_confirmed_write,
        an_operator_killed_amid_switchovers_leaves_one_master_and_every_acknowledged_write,
        a_leader_that_hangs_while_the_master_dies_changes_nothing_when_it_wakes,
        a_leader_that_hangs_amid_a_switchover_changes_nothing_when_it_wakes;
    doubled:
        a_master_that_dies_while_etcd_is_away_is_replaced_when_that_can_be_recorded,
        a_master_that_dies_while_etcd_hangs_is_replaced_once_when_it_wakes,
        a_master_that_dies_while_etcd_stutters_is_replaced_all_the_same,
        a_master_that_dies_while_etcd_is_full_is_replaced_when_there_is_room,
        a_watch_whose_history_was_compacted_while_the_master_died_is_made_up_by_a_list,
        a_successor_that_dies_at_once_is_followed_by_another,
        whoever_takes_a_dead_masters_port_is_not_taken_for_it_and_costs_nothing_silently,
        replicas_that_a_stranger_has_lured_are_taken_from_it_and_nobody_is_promoted_silently,
        a_machine_with_all_in_it_that_is_suspended_goes_on_as_if_nothing_had_been,
        a_machine_that_hangs_delays_nobody_who_has_nothing_there,
        what_is_deleted_amid_its_creation_or_failover_leaves_nothing,
        a_spec_that_goes_back_before_it_was_reached_ends_where_it_began,
        a_roll_under_load_costs_no_acknowledged_write_and_no_time_without_a_master,
        an_instance_is_not_called_ready_while_a_node_of_it_is_gone;
    control:
        the_mesos_master_dies_and_returns,
        two_operators_started_at_once_never_both_act,
        a_standby_takes_over_from_a_killed_leader_within_five_seconds,
        a_leader_that_hangs_and_wakes_never_acts_beside_its_successor,
        etcd_stops_and_comes_back,
        etcd_hangs_and_wakes,
        an_emptied_store_freezes_the_operator;
    deaths:
        a_port_that_another_process_has_is_named_as_the_reason,
        what_a_dead_node_said_last_is_told_with_what_can_be_done;
    framework:
        a_framework_that_was_removed_is_told_and_begins_anew_when_asked_to,
        a_node_out_of_sight_is_waited_for_after_the_framework_has_begun_anew,
        an_operator_whose_framework_another_process_has_taken_says_so_and_acts_no_more;
    passwords:
        nobody_gets_in_without_a_password_and_a_failover_works_as_ever,
        a_password_is_shown_to_who_asks_for_it_and_nowhere_else,
        passwords_are_rotated_and_no_client_is_cut_off,
        a_password_that_has_leaked_is_void_at_once_whatever_was_asked_for_before,
        passwords_are_introduced_and_taken_back_without_cutting_anybody_off,
        clients_log_in_with_a_secret_of_the_users_own,
        a_stranger_on_a_dead_masters_port_lures_no_replica_that_has_a_password;
    strangers:
        whoever_has_a_port_of_an_agent_is_left_alone_and_the_node_gets_another,
        a_replica_that_is_not_ours_is_let_in_by_nobody_and_cut_when_it_has_stolen_a_password,
        a_client_cannot_hold_up_a_failover_whatever_it_calls_itself;
    settings:
        a_setting_that_redis_refuses_is_told_in_its_words_and_costs_a_failover_nothing,
        a_node_that_hangs_while_settings_are_made_does_not_delay_a_failover;
    sentinel:
        clients_of_others_find_the_new_master_by_name_and_write_on,
        a_new_master_is_published_when_it_takes_writes,
        the_other_operators_are_the_other_sentinels_and_answer_the_same;
    restarts:
        an_operator_killed_at_random_moments_goes_on_where_it_was,
        an_operator_killed_again_and_again_amid_changes_loses_nothing,
        an_operator_restarted_with_twenty_healthy_instances_only_takes_the_lead,
        a_store_that_has_gone_back_stays_frozen_until_operators_are_started_anew,
        a_store_that_was_restored_behind_a_switchover_deposes_no_master_and_costs_no_write,
        a_store_that_was_restored_behind_switchovers_costs_no_write_that_goes_on_meanwhile;
}
