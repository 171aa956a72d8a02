-- What one database uses of the machine it runs on, and what a copy of it has otherwise. Catalogs differ between versions; a column that is missing
-- is null. The operator puts in how the version tells by which rules a database sorts now.
SELECT json_build_object(
  'platform', split_part(substring(version() FROM ' on ([^, ]+)'), '-', 1),
  'layout', (SELECT json_object_agg(key, value #>> '{}') FROM jsonb_each(to_jsonb(i)) WHERE key IN ('max_data_alignment', 'database_block_size',
      'blocks_per_segment', 'wal_block_size', 'max_identifier_length', 'max_index_columns', 'max_toast_chunk_size',
      'large_object_chunk_size', 'float8_pass_by_value')),
  'collations', (SELECT coalesce(json_agg(DISTINCT jsonb_build_object('provider', c.provider, 'locale', c.locale, 'version', c.version)), '[]')
      FROM (
          SELECT d.provider, d.locale, d.version
          UNION
          -- Order matters where it is on disk.
          SELECT l.collprovider::text, coalesce(to_jsonb(l) ->> 'colliculocale', to_jsonb(l) ->> 'colllocale', l.collcollate),
              pg_collation_actual_version(l.oid)
          FROM pg_index x CROSS JOIN LATERAL unnest(x.indcollation::oid[]) k (oid)
          JOIN pg_collation l ON l.oid = k.oid AND l.collprovider <> 'd'
      ) c (provider, locale, version)
      WHERE c.locale NOT IN ('C', 'POSIX')),
  'locales', json_build_array(d.datcollate, d.datctype),
  'extensions', (SELECT coalesce(json_object_agg(extname, json_build_array(extversion)), '{}') FROM pg_extension),
  'libraries', (SELECT coalesce(json_agg(DISTINCT l), '[]') FROM (
          SELECT p.probin FROM pg_proc p JOIN pg_language g ON g.oid = p.prolang AND g.lanname = 'c' WHERE p.probin IS NOT NULL AND p.oid >= 16384
          UNION
          SELECT trim(both ' "' FROM n) FROM pg_settings s CROSS JOIN LATERAL unnest(string_to_array(s.reset_val, ',')) n
          WHERE s.name IN ('shared_preload_libraries', 'session_preload_libraries', 'local_preload_libraries')
      ) l (l) WHERE l <> ''),
  'time_zones', (SELECT coalesce(json_agg(DISTINCT z), '[]') FROM (
          SELECT reset_val FROM pg_settings WHERE name IN ('TimeZone', 'log_timezone')
          UNION
          SELECT substring(c FROM '=(.*)$') FROM pg_db_role_setting r CROSS JOIN LATERAL unnest(r.setconfig) c WHERE c ILIKE 'timezone=%'
      ) z (z)),
  'unlogged', (SELECT coalesce(json_agg(u), '[]') FROM (SELECT format('%I.%I of %I', n.nspname, c.relname, current_database()) FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relpersistence = 'u' AND c.relkind = 'r' ORDER BY 1 LIMIT 8) u (u)),
  'subscriptions', (SELECT coalesce(json_agg(s), '[]') FROM (SELECT format('%I of %I', s.subname, current_database()) FROM pg_subscription s
      JOIN pg_database o ON o.oid = s.subdbid AND o.datname = current_database() ORDER BY 1 LIMIT 8) s (s)),
  'stale_collations', (SELECT coalesce(json_agg(DISTINCT t), '[]') FROM (
          SELECT format('database %I', current_database()) WHERE d.built IS NOT NULL AND d.built IS DISTINCT FROM d.version
          UNION
          SELECT format('collation %s of %I', l.oid::regcollation, current_database()) FROM pg_index x
          CROSS JOIN LATERAL unnest(x.indcollation::oid[]) k (oid) JOIN pg_collation l ON l.oid = k.oid AND l.collprovider <> 'd'
          WHERE l.collversion IS NOT NULL AND l.collversion IS DISTINCT FROM pg_collation_actual_version(l.oid)
      ) t (t))
)
FROM (SELECT datcollate, datctype, to_jsonb(p) ->> 'datcollversion' AS built, {version_of_database} AS version, coalesce(to_jsonb(p) ->> 'datlocprovider', 'c') AS provider,
          coalesce(to_jsonb(p) ->> 'daticulocale', to_jsonb(p) ->> 'datlocale', datcollate) AS locale
      FROM pg_database p WHERE datname = current_database()) d
CROSS JOIN pg_control_init() i
