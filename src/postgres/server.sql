SELECT json_build_object(
  'in_recovery', r.in_recovery,
  'version', current_setting('server_version_num')::int,
  'system_identifier', s.system_identifier::text,
  'timeline', CASE
      WHEN NOT r.in_recovery THEN ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int
      ELSE greatest(w.received_tli, c.timeline_id) END,
  'lsn', CASE WHEN r.in_recovery THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END,
  'segment_bytes', i.bytes_per_wal_segment,
  'receiver_status', w.status,
  'sender_host', w.sender_host,
  'sender_port', w.sender_port,
  'receiver_silence', extract(epoch FROM clock_timestamp() - w.last_msg_receipt_time),
  'replay_paused', CASE WHEN r.in_recovery THEN pg_get_wal_replay_pause_state() <> 'not paused' ELSE false END,
  'follows_as', substring(f.conninfo FROM 'application_name=''?([^'' ]*)'),
  'follows_host', substring(f.conninfo FROM 'host=''?([^'' ]*)'),
  'follows_port', substring(f.conninfo FROM 'port=''?([0-9]+)')::int,
  'standby_signal', f.standby_signal,
  'armed_by', CASE WHEN f.standby_signal AND NOT r.in_recovery THEN split_part(pg_read_file('standby.signal'), E'\n', 1) END,
  'checkpoint', c.checkpoint_lsn,
  'redo', c.redo_lsn,
  'superuser', u.rolsuper,
  'replication', u.rolreplication OR u.rolsuper,
  'slots', (SELECT coalesce(json_agg(json_build_object('name', slot_name, 'active', active, 'wal_status', wal_status, 'logical', slot_type = 'logical',
        'retained', pg_wal_lsn_diff(CASE WHEN r.in_recovery THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn)::bigint)), '[]'::json)
      FROM pg_replication_slots),
  'free_slots', current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots),
  'free_walsenders', current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'),
  'standbys', (SELECT coalesce(json_agg(json_build_object('name', application_name, 'address', host(client_addr), 'state', state, 'replayed', replay_lsn,
        'silence', extract(epoch FROM clock_timestamp() - reply_time))), '[]'::json)
      FROM pg_stat_replication),
  'prepared_transactions', (SELECT count(*) FROM pg_prepared_xacts),
  'oldest_transaction', (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)
      FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND application_name <> 'mitosis'),
  'oldest_idle_transaction', (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - state_change)), 0)
      FROM pg_stat_activity WHERE backend_type = 'client backend' AND state LIKE 'idle in transaction%' AND application_name <> 'mitosis'),
  'our_address', host(inet_client_addr()),
  'clients', (SELECT coalesce(json_agg(c), '[]'::json)
      FROM (SELECT host(client_addr) AS address, usename AS user, application_name AS application, count(*) AS sessions
          FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> 'mitosis'
          GROUP BY 1, 2, 3 ORDER BY 4 DESC LIMIT 500) c),
  'received', CASE WHEN r.in_recovery THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) END,
  'canary_schema', to_regnamespace('mitosis') IS NOT NULL,
  'manager', CASE
      WHEN EXISTS (SELECT FROM pg_stat_activity WHERE application_name LIKE 'Patroni%') THEN 'patroni'
      WHEN current_setting('shared_preload_libraries') ~ '\mrepmgr\M'
        OR EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'repmgrd') THEN 'repmgr'
      WHEN current_setting('shared_preload_libraries') ~ '\mpgautofailover\M'
        OR EXISTS (SELECT FROM pg_stat_activity WHERE application_name LIKE 'pg\_auto\_failover%') THEN 'pg_auto_failover' END,
  'recovery_target', (SELECT string_agg(name, ', ') FROM pg_settings WHERE setting <> ''
      AND name IN ('recovery_target', 'recovery_target_lsn', 'recovery_target_name', 'recovery_target_time', 'recovery_target_xid')),
  'clock', extract(epoch FROM clock_timestamp()),
  'started', (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint,
  'supervisor', CASE WHEN u.rolsuper THEN substring(
      pg_read_file('/proc/' || split_part(pg_read_file('postmaster.pid'), E'\n', 1) || '/cgroup', 0, 4096, true) FROM '([^/\n]+\.service)') END,
  'backups', (SELECT coalesce(json_agg(json_build_object('name', a.application_name, 'total', b.backup_total, 'done', b.backup_streamed)), '[]'::json)
      FROM pg_stat_progress_basebackup b JOIN pg_stat_activity a USING (pid) WHERE b.backup_streamed IS NOT NULL),
  'database_bytes', (SELECT coalesce(sum(pg_database_size(oid)), 0) FROM pg_database WHERE datallowconn),
  'tablespaces', (SELECT coalesce(json_agg(spcname), '[]'::json) FROM pg_tablespace WHERE pg_tablespace_location(oid) <> ''),
  'settings', (SELECT json_object_agg(name, setting) FROM pg_settings WHERE name IN ('max_connections', 'max_worker_processes',
      'max_wal_senders', 'max_prepared_transactions', 'max_locks_per_transaction', 'max_replication_slots', 'wal_level', 'full_page_writes',
      'hot_standby', 'shared_preload_libraries', 'wal_keep_size', 'recovery_min_apply_delay', 'wal_log_hints', 'data_checksums',
      'synchronous_standby_names', 'wal_segment_size', 'track_commit_timestamp', 'archive_mode', 'max_slot_wal_keep_size')),
  'data_directory', coalesce((SELECT setting FROM pg_settings WHERE name = 'data_directory'), '')
)
FROM (SELECT pg_is_in_recovery() AS in_recovery) r
CROSS JOIN pg_control_system() s
CROSS JOIN pg_control_checkpoint() c
CROSS JOIN pg_control_init() i
JOIN pg_roles u ON u.rolname = current_user
CROSS JOIN LATERAL (SELECT (SELECT setting FROM pg_settings WHERE name = 'primary_conninfo') AS conninfo,
      CASE WHEN u.rolsuper THEN (pg_stat_file('standby.signal', true)).size IS NOT NULL ELSE false END AS standby_signal) f
LEFT JOIN pg_stat_wal_receiver w ON true
