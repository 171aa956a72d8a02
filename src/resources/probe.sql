-- What of an inventory this server of the target's image does not have as it is there: one JSON object. Variables: inventory, parameters.
CREATE FUNCTION pg_temp.version_of(provider text, locale text, OUT is_known boolean, OUT version text) LANGUAGE plpgsql AS $f$
BEGIN
  EXECUTE format('CREATE COLLATION probed (PROVIDER = %s, LOCALE = %L)',
    CASE provider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END, locale);
  SELECT true, pg_collation_actual_version(oid) INTO is_known, version FROM pg_collation WHERE collname = 'probed';
  DROP COLLATION probed;
EXCEPTION WHEN OTHERS THEN
  is_known := false;
END $f$;
CREATE FUNCTION pg_temp.has_library(library text) RETURNS boolean LANGUAGE sql AS $f$
  SELECT EXISTS (SELECT FROM (SELECT replace(library, '$libdir', setting) AS path, setting AS folder FROM pg_config WHERE name = 'PKGLIBDIR') l
    CROSS JOIN LATERAL unnest(ARRAY[path, path || '.so', folder || '/' || library, folder || '/' || library || '.so']) file
    WHERE (pg_stat_file(file, true)).size IS NOT NULL)
$f$;
-- What is told must fit into a message of a pod: some of each kind.
SELECT json_build_object(
  'version', current_setting('server_version_num')::int,
  'platform', split_part(substring(version() FROM ' on ([^, ]+)'), '-', 1),
  'layout', (SELECT coalesce(json_object_agg(e.key, p.value), '{}') FROM jsonb_each_text(expected -> 'layout') e
      LEFT JOIN jsonb_each_text(to_jsonb(i)) p USING (key) WHERE p.value IS DISTINCT FROM e.value),
  'collations', (SELECT coalesce(json_agg(c), '[]') FROM (
      SELECT e.*, v.is_known, v.version AS found_version FROM jsonb_to_recordset(expected -> 'collations') e (provider text, locale text, version text)
      CROSS JOIN LATERAL pg_temp.version_of(e.provider, e.locale) v
      WHERE (e.provider = 'c') = is_any AND (NOT v.is_known OR v.version IS DISTINCT FROM e.version) LIMIT 8) c),
  'locales', (SELECT coalesce(json_agg(l), '[]') FROM (SELECT e FROM jsonb_array_elements_text(expected -> 'locales') e
      WHERE is_any AND e NOT IN ('C', 'POSIX') AND NOT (pg_temp.version_of('c', e)).is_known LIMIT 8) l (l)),
  'extensions', (SELECT coalesce(json_object_agg(key, default_version), '{}') FROM (
      SELECT e.key, a.default_version FROM jsonb_each(expected -> 'extensions') e
      LEFT JOIN pg_available_extensions a ON a.name = e.key WHERE is_any AND e.value <> jsonb_build_array(a.default_version) LIMIT 8) x),
  'libraries', (SELECT coalesce(json_agg(l), '[]') FROM (SELECT e FROM jsonb_array_elements_text(expected -> 'libraries') e
      WHERE is_any AND NOT pg_temp.has_library(e) LIMIT 8) l (l)),
  'time_zones', (SELECT coalesce(json_agg(z), '[]') FROM (SELECT e FROM jsonb_array_elements_text(expected -> 'time_zones') e
      WHERE is_any AND NOT EXISTS (SELECT FROM pg_timezone_names z WHERE lower(z.name) = lower(e)) LIMIT 8) z (z)),
  'parameters', (SELECT coalesce(json_agg(p), '[]') FROM (SELECT e FROM jsonb_array_elements_text(:'parameters'::jsonb) e
      WHERE is_any AND e NOT LIKE '%.%' AND NOT EXISTS (SELECT FROM pg_settings s WHERE s.name = lower(e)) LIMIT 8) p (p))
)
FROM (SELECT :'inventory'::jsonb AS expected, current_database() = 'any_encoding' AS is_any) q CROSS JOIN pg_control_init() i;
