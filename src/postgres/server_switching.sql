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
  'receiver_silence', extract(epoch FROM clock_timestamp() - w.last_msg_receipt_time),
  'replay_paused', CASE WHEN r.in_recovery THEN pg_get_wal_replay_pause_state() <> 'not paused' ELSE false END,
  'follows_as', substring(f.conninfo FROM 'application_name=''?([^'' ]*)'),
  'follows_host', substring(f.conninfo FROM 'host=''?([^'' ]*)'),
  'follows_port', substring(f.conninfo FROM 'port=''?([0-9]+)')::int,
  'standby_signal', a.exists,
  'armed_by', CASE WHEN a.exists AND NOT r.in_recovery THEN split_part(pg_read_file('standby.signal'), E'\n', 1) END,
  'checkpoint', c.checkpoint_lsn,
  'redo', c.redo_lsn,
  -- The bytes in which a shutdown checkpoint lies when it is the last record that was replayed.
  'last_record', CASE WHEN r.in_recovery AND t.start % i.bytes_per_wal_segment + 120 <= i.bytes_per_wal_segment THEN encode(pg_read_binary_file(
      'pg_wal/' || upper(lpad(to_hex(greatest(w.received_tli, c.timeline_id)), 8, '0') || lpad(to_hex(t.start >> 32), 8, '0')
        || lpad(to_hex((t.start & 4294967295) / i.bytes_per_wal_segment), 8, '0')),
      t.start % i.bytes_per_wal_segment, 120, true), 'hex') END,
  'data_directory', current_setting('data_directory'),
  'programs', (SELECT setting FROM pg_config WHERE name = 'BINDIR'),
  'postmaster', split_part(pg_read_file('postmaster.pid'), E'\n', 1)::int
)
FROM (SELECT pg_is_in_recovery() AS in_recovery) r
CROSS JOIN pg_control_system() s
CROSS JOIN pg_control_checkpoint() c
CROSS JOIN pg_control_init() i
CROSS JOIN LATERAL (SELECT greatest((pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint - 120, 0) AS start) t
CROSS JOIN (SELECT current_setting('primary_conninfo') AS conninfo) f
CROSS JOIN (SELECT (pg_stat_file('standby.signal', true)).size IS NOT NULL AS exists) a
LEFT JOIN pg_stat_wal_receiver w ON true
