"""The SQL of selection. Each statement says what it leaves behind.

``comparison`` and ``selection`` fill in what stands in braces. Temporary tables start with ``_bp_``
so that they never hide a user's table.

A *group* is what may be asked once: (key, content, version), or the key alone when only new keys
are asked. ``rank`` orders the rows of a group: by submission, then attempt, then how settled.
"""

INDEX_FILES = """
-- Table {view}_files: what the files of the index do not say themselves, in their order.
CREATE OR REPLACE TEMP TABLE {view}_files AS
SELECT unnest($file::BIGINT[]) AS file, unnest($position::UBIGINT[]) AS position,
       unnest($number::BIGINT[]) AS number, unnest($partition::VARCHAR[]) AS partition,
       unnest($request::VARCHAR[]) AS request, unnest($beside::BOOLEAN[]) AS beside
"""

INDEX = """
-- View {view}: every index row, with its submission's number and partition.
-- standing: 0 pending, 1 may be asked again, 2 refused, rejected, paused or settled by a rule, 3 answered.
-- ruled: it was not asked, because a rule settled it; it is no attempt.
-- beside: another model was asked, about the same keys; that says only which of both has the row of the table.
-- request: a hash of what requests had in common then; NULL when that is not known.
CREATE OR REPLACE TEMP VIEW {view} AS
SELECT key_hash, content_hash, version, custom_id, attempt, number, partition, deleted, request,
       file, status, truncated, rejected, beside, attempt = 0 AS ruled, (number << 20) + attempt * 4 + standing AS rank
FROM (
    SELECT rows.key_hash, rows.content_hash, rows.version, rows.custom_id,
           CAST(rows.attempt AS BIGINT) AS attempt, files.number, files.partition, rows.status,
           files.position AS file,
           files.request, files.beside, rows.status = 'truncated' AS truncated,
           rows.status = 'rejected' AS rejected,
           rows.status = 'deleted' AS deleted,
           CASE rows.status WHEN 'pending' THEN 0 WHEN 'answered' THEN 3
                WHEN 'refused' THEN 2 WHEN 'rejected' THEN 2 WHEN 'paused' THEN 2
                WHEN 'skipped' THEN 2 WHEN 'rule' THEN 2
                WHEN 'invalid' THEN 1 WHEN 'truncated' THEN 1 WHEN 'errored' THEN 1
                WHEN 'expired' THEN 1 WHEN 'canceled' THEN 1 WHEN 'missing' THEN 1
                WHEN 'deleted' THEN 1
                -- An answer is never asked again because a file is damaged.
                ELSE error('an index file has the status ' || rows.status) END AS standing
    FROM ({rows}) AS rows
    JOIN {view}_files AS files USING (file)
)
"""

EMPTY_INDEX = """
-- View {view} when nothing was ever submitted.
CREATE OR REPLACE TEMP VIEW {view} AS
SELECT NULL::UUID AS key_hash, NULL::UUID AS content_hash, '' AS version, '' AS custom_id,
       0::BIGINT AS attempt, 0::BIGINT AS number, '' AS partition, false AS deleted,
       '' AS request, 0::UBIGINT AS file, '' AS status, false AS truncated, false AS rejected, false AS beside, false AS ruled,
       0::BIGINT AS rank
WHERE false
"""

HASHED = """
-- Table _bp_hashed: one row per source row of this partition: its key (k0, k1, ...), its hashes,
-- a cheap hash of the same content by which a second reading is known to be the same, whether the
-- `where` of the run wants it, and the number of the rule that settles it; NULL when none does. What a
-- rule makes of it is part of its content. together: a hash of what records share that stand together.
CREATE OR REPLACE TEMP TABLE _bp_hashed AS
SELECT {keys}, {key_hash} AS key_hash, {content_hash} AS content_hash, {same_content} AS same_content,
       {wanted} AS wanted, {rule} AS rule{hash_together}
FROM {source} AS source
WHERE {partition}
"""

HASHED_ANEW = """
-- Table _bp_hashed, where it is known what most rows said: a row of the same key and the same cheap hash
-- says it again, and is not hashed. A row of that file whose check is another one is damaged.
CREATE OR REPLACE TEMP TABLE _bp_hashed AS
SELECT {keys}, source._bp_key AS key_hash,
       CASE WHEN known._bp_known IS NULL THEN {content_hash} ELSE known._bp_known END AS content_hash,
       source._bp_same AS same_content, source._bp_wanted AS wanted, {rule} AS rule{hash_together},
       known._bp_known IS NOT NULL AS known
FROM (SELECT *, {key_hash} AS _bp_key, {same_content} AS _bp_same, {wanted} AS _bp_wanted
      FROM {source} AS source WHERE {partition}) AS source
LEFT JOIN (SELECT key_hash AS _bp_known_key, same_content AS _bp_known_same, content_hash AS _bp_known
           FROM read_parquet({path}) WHERE hash(key_hash, same_content, content_hash) = "check") AS known
    ON known._bp_known_key = source._bp_key AND known._bp_known_same = source._bp_same
"""

KNOWN = """
-- One row: how many rows of _bp_hashed said what they had said before.
SELECT count(*) FILTER (known) FROM _bp_hashed
"""

CONTENTS = """
-- File: what every row of _bp_hashed says, for the next night.
COPY (SELECT key_hash, same_content, content_hash, hash(key_hash, same_content, content_hash) AS "check"
      FROM _bp_hashed) TO {path} (FORMAT parquet, COMPRESSION uncompressed)
"""

KEY_PROBLEMS = """
-- One row: how many rows of _bp_hashed have no key, and how many share their key with another row.
SELECT count(*) FILTER (WHERE {is_null}), count(*) - count(DISTINCT key_hash) FROM _bp_hashed
"""

REPEATED_KEYS = """
-- Up to {examples} keys that occur more than once, and how often each does.
SELECT any_value(concat_ws(', ', {key_texts})) AS key, count(*) AS times
FROM _bp_hashed GROUP BY key_hash HAVING count(*) > 1 ORDER BY times DESC, key LIMIT {examples}
"""

KEYLESS_ROWS = """
-- Up to {examples} rows without a complete key: the key columns' values.
SELECT {keys} FROM _bp_hashed WHERE {is_null} LIMIT {examples}
"""

OFTEN = """
-- Table _bp_often: the keys of which the index has more than one row: of these the whole history counts.
CREATE OR REPLACE TEMP TABLE _bp_often AS
SELECT key_hash FROM _bp_index{among} GROUP BY key_hash HAVING count(*) > 1
"""

PLAIN = """
-- Table _bp_plain: the rows of _bp_hashed (by rowid) of whose key the index has one row, an answer to what
-- would be asked now. They are most of a source, and it stands as it is.
CREATE OR REPLACE TEMP TABLE _bp_plain AS
SELECT hashed.rowid AS id, past.attempt, past.rank
FROM _bp_index AS past JOIN _bp_hashed AS hashed
    ON hashed.key_hash = past.key_hash AND hashed.content_hash = past.content_hash
WHERE past.version = {version} AND past.rank & 3 = 3 AND NOT past.deleted AND NOT past.beside
  AND NOT past.ruled AND hashed.rule IS NULL AND NOT ({force} AND hashed.wanted)
  -- A key that came from another partition is published again.
  AND NOT ({moves} AND past.partition <> {partition})
  AND past.key_hash NOT IN (SELECT key_hash FROM _bp_often)
"""

REST = """
-- Table _bp_rest: the other rows of _bp_hashed.
CREATE OR REPLACE TEMP TABLE _bp_rest AS
SELECT hashed.rowid AS id, key_hash, content_hash, wanted, rule FROM _bp_hashed AS hashed
WHERE rowid NOT IN (SELECT id FROM _bp_plain)
"""

OPEN = """
-- Table _bp_open: the groups of _bp_rest with an attempt that is selected or sent but not settled.
CREATE OR REPLACE TEMP TABLE _bp_open AS
SELECT DISTINCT {group} FROM (
    SELECT key_hash, content_hash, version
    FROM _bp_index
    WHERE NOT deleted AND key_hash IN (SELECT key_hash FROM _bp_rest)
    GROUP BY key_hash, content_hash, version, number, attempt
    HAVING max(rank & 3) = 0
)
"""

VERDICTS = """
-- Table _bp_verdicts: for each row of _bp_hashed (by rowid) what is to be done with it, the
-- attempts that its group has had, the rank of its group's latest row, and how often its answer
-- was cut short. Attempts count since the request became what it is now: a correction asks again.
CREATE OR REPLACE TEMP TABLE _bp_verdicts AS
WITH history AS (
    SELECT hashed.id, past.number, past.rank, past.attempt, past.partition,
           past.rank * 2 + CAST(past.deleted AS BIGINT) AS past,
           past.deleted AND past.version = '{erased}' AS erased,
           {in_group} AND NOT past.deleted AND NOT past.beside AS in_group,
           past.content_hash = hashed.content_hash AS same_content,
           -- An answer to this content and question stays, whatever later attempts came to.
           past.content_hash = hashed.content_hash AND past.version = {version} AS as_now,
           past.rank & 3 = 3 AND NOT past.deleted AS answered,
           coalesce(past.request = {request}, true) AS same_request,
           past.rejected, past.truncated, past.ruled OR past.beside AS ruled,
           past.content_hash = hashed.content_hash AND past.version <> {version} AND NOT past.beside AS other_version
    FROM _bp_index AS past JOIN _bp_rest AS hashed USING (key_hash)
),
state AS (
    SELECT id, max(number) AS key_number,
           coalesce(max(past) FILTER (WHERE erased) = max(past), false) AS erased,
           bool_or(other_version) AS other_version,
           bool_and(ruled) AS was_never_asked,
           max(rank) FILTER (WHERE in_group) AS last,
           coalesce(CASE WHEN arg_max(as_now, rank) FILTER (WHERE in_group)
                         THEN max(rank) FILTER (WHERE in_group AND as_now AND answered) END,
                    max(rank) FILTER (WHERE in_group)) AS latest,
           max(attempt) FILTER (WHERE in_group) AS attempts,
           max(attempt) FILTER (WHERE in_group)
               - coalesce(max(attempt) FILTER (WHERE in_group AND NOT same_request), 0) AS used,
           count(DISTINCT attempt) FILTER (WHERE in_group AND same_request AND truncated)
               AS cut_short,
           arg_max(rejected AND NOT same_request, rank) FILTER (WHERE in_group) AS corrected,
           arg_max(truncated AND same_request, rank) FILTER (WHERE in_group) AS is_cut_short,
           arg_max(same_content, rank) FILTER (WHERE in_group) AS same_content,
           arg_max(partition, past) AS partition
    FROM history GROUP BY id
)
SELECT hashed.id, coalesce(state.attempts, 0) AS attempts, state.latest,
       hashed.rule IS NOT NULL AS ruled,
       CAST(least(coalesce(state.cut_short, 0), {most_doublings}) AS INTEGER) AS doubled,
       CASE
           WHEN open.key_hash IS NOT NULL THEN 'in_flight'
           -- Its records were erased: it is asked on purpose only.
           WHEN state.erased AND NOT ({force} AND hashed.wanted) THEN 'erased'
           WHEN hashed.rule IS NOT NULL AND state.latest IS NULL THEN 'rule'
           WHEN {force} AND hashed.wanted AND hashed.rule IS NULL THEN 'forced'
           WHEN state.id IS NULL OR state.latest IS NULL AND state.was_never_asked THEN 'new'
           WHEN state.latest IS NULL AND state.other_version THEN 'version'
           WHEN state.latest IS NULL THEN 'changed'
           WHEN state.latest & 3 < 2 AND state.used < {max_attempts}
               -- It would be cut short again, and paid.
               AND NOT (state.is_cut_short AND state.cut_short > {most_doublings}) THEN 'retry'
           WHEN state.latest & 3 = 2 AND state.corrected THEN 'retry'
           -- A key that was deleted and is back: its earlier answer is about what it said then.
           WHEN state.key_number > state.last >> 20 AND NOT state.same_content THEN 'changed'
           WHEN state.key_number > state.last >> 20 THEN 'reuse'
           -- A key that came from another partition, which would drop its row as gone.
           WHEN {moves} AND state.same_content AND state.partition <> {partition} THEN 'reuse'
           WHEN state.latest & 3 < 2 THEN 'exhausted'
           ELSE 'settled'
       END AS verdict
FROM _bp_rest AS hashed
LEFT JOIN state ON state.id = hashed.id
LEFT JOIN _bp_open AS open ON {is_open}
UNION ALL
SELECT id, attempt, rank, false, 0, 'settled' FROM _bp_plain
"""

COUNTS = """
-- One row per verdict: how many source rows have it.
SELECT verdict, count(*) FROM _bp_verdicts GROUP BY verdict
"""

REASKED = """
-- One row: the keys that are answered here; of the records that would be asked, those that are
-- answered with another content, and those whose content was answered under a key that is gone;
-- those that are answered elsewhere as they are, of how many; and how many have a new key.
WITH answered AS (
    SELECT DISTINCT key_hash, content_hash FROM _bp_index
    WHERE version = {version} AND rank & 3 = 3 AND NOT deleted AND {here}
),
elsewhere AS (
    SELECT DISTINCT key_hash, content_hash FROM _bp_elsewhere
    WHERE version = {version} AND rank & 3 = 3 AND NOT deleted AND {here}
),
asked AS (
    SELECT hashed.key_hash, hashed.content_hash, verdict
    FROM _bp_verdicts JOIN _bp_hashed AS hashed ON hashed.rowid = _bp_verdicts.id
    WHERE verdict IN ('new', 'changed')
),
gone AS (
    SELECT content_hash, count(*) AS times FROM answered
    ANTI JOIN _bp_hashed USING (key_hash) GROUP BY content_hash
),
fresh AS (
    SELECT content_hash, count(*) AS times FROM asked WHERE verdict = 'new' GROUP BY content_hash
)
SELECT (SELECT count(DISTINCT key_hash) FROM answered),
       (SELECT count(*) FROM asked SEMI JOIN answered USING (key_hash) WHERE verdict = 'changed'),
       (SELECT coalesce(sum(least(fresh.times, gone.times)), 0)::BIGINT
        FROM fresh JOIN gone USING (content_hash)),
       (SELECT count(*) FROM asked SEMI JOIN elsewhere USING (key_hash, content_hash)),
       (SELECT count(DISTINCT key_hash) FROM elsewhere),
       (SELECT count(*) FROM asked WHERE verdict = 'new')
"""

WHOLE = """
-- Table _bp_whole: the hashes of every source row, of all partitions.
CREATE OR REPLACE TEMP TABLE _bp_whole AS
SELECT {key_hash} AS key_hash, {content_hash} AS content_hash FROM {source} AS source
"""

REASKED_IN_ALL = """
-- One row, over all partitions: the keys that are answered; the new keys whose content was answered
-- under a key that is gone; the rows that are answered elsewhere as they are, and not here, of how
-- many; and how many keys are new.
WITH answered AS (
    SELECT DISTINCT key_hash, content_hash FROM _bp_index
    WHERE version = {version} AND rank & 3 = 3 AND NOT deleted
),
elsewhere AS (
    SELECT DISTINCT key_hash, content_hash FROM _bp_elsewhere
    WHERE version = {version} AND rank & 3 = 3 AND NOT deleted
),
new AS (
    SELECT * FROM _bp_whole ANTI JOIN _bp_index USING (key_hash)
),
gone AS (
    SELECT content_hash, count(*) AS times FROM answered
    ANTI JOIN _bp_whole USING (key_hash) GROUP BY content_hash
),
fresh AS (
    SELECT content_hash, count(*) AS times FROM new GROUP BY content_hash
)
SELECT (SELECT count(DISTINCT key_hash) FROM answered),
       (SELECT coalesce(sum(least(fresh.times, gone.times)), 0)::BIGINT
        FROM fresh JOIN gone USING (content_hash)),
       (SELECT count(*) FROM _bp_whole SEMI JOIN elsewhere USING (key_hash, content_hash)
        ANTI JOIN answered USING (key_hash, content_hash)),
       (SELECT count(DISTINCT key_hash) FROM elsewhere),
       (SELECT count(*) FROM new)
"""

UNKNOWN = """
-- One row: how many answered rows of the destination, whose file is {path}, this store does not know;
-- of how many it does not know the request either; of how many of these the record would be paid now:
-- it is asked, or waits unsent (or a rule settles it, and takes the answer's place); and how many requests
-- that would be paid ask the same question about the same content as any of the rows, which the custom_id
-- names.
WITH known AS (
    SELECT custom_id, bool_or(rank & 3 = 3) AS answered
    FROM (FROM _bp_index UNION ALL BY NAME FROM _bp_elsewhere)
    WHERE rank & 3 > 0 AND NOT deleted GROUP BY custom_id
),
-- Settled: the store knows its request, and not this answer to it.
unknown AS (
    SELECT rows.*, known.custom_id IS NOT NULL AS settled FROM read_parquet({path}) AS rows
    LEFT JOIN known ON known.custom_id = rows._bp_custom_id
    WHERE _bp_status = 'answered' AND NOT coalesce(known.answered, false)
),
paid AS (
    SELECT hashed.* FROM _bp_verdicts JOIN _bp_hashed AS hashed ON hashed.rowid = _bp_verdicts.id
    WHERE wanted AND (verdict IN {asked_verdicts} OR verdict = 'in_flight' AND key_hash IN (
        SELECT key_hash FROM _bp_index WHERE number IN {unsent} AND rank & 3 = 0
    ))
),
questions AS (
    SELECT custom_id FROM _bp_plan WHERE kind IN ('ask', 'duplicate')
    UNION ALL
    SELECT custom_id FROM _bp_index WHERE number IN {unsent} AND rank & 3 = 0
      AND key_hash IN (SELECT key_hash FROM paid)
)
SELECT (SELECT count(*) FROM unknown),
       (SELECT count(*) FROM unknown WHERE NOT settled),
       (SELECT count(*) FROM paid WHERE EXISTS (FROM unknown WHERE NOT settled AND {same_key})),
       (SELECT count(*) FROM questions WHERE substr(custom_id, 10, 16) IN
        (SELECT substr(_bp_custom_id, 10, 16) FROM unknown))
"""

PLAN = """
-- Table _bp_plan: the records of this submission in their final order (asked first, then by what they
-- share, where they are to stand together, then by key).
CREATE OR REPLACE TEMP TABLE _bp_plan AS
WITH actionable AS (
    SELECT {key_names}, key_hash, content_hash, same_content, verdict, attempts, latest, doubled,
           rule, hashed.rowid AS place{together}
    FROM _bp_verdicts JOIN _bp_hashed AS hashed ON hashed.rowid = _bp_verdicts.id
    WHERE wanted AND verdict IN {asked_verdicts}
    {limit}
),
chosen AS (
    SELECT 'ask' AS kind, * FROM actionable
    UNION ALL
    SELECT verdict, {key_names}, key_hash, content_hash, same_content, verdict, attempts, latest, 0,
           rule, hashed.rowid{together}
    FROM _bp_verdicts JOIN _bp_hashed AS hashed ON hashed.rowid = _bp_verdicts.id
    WHERE wanted AND verdict IN ('reuse', 'rule') AND {with_reuse}
),
earlier AS (
    SELECT past.key_hash, past.rank, any_value(past.custom_id) AS custom_id
    FROM _bp_index AS past
    SEMI JOIN (SELECT key_hash, latest AS rank FROM chosen WHERE kind = 'reuse')
        USING (key_hash, rank)
    WHERE NOT past.deleted
    GROUP BY ALL
),
numbered AS (
    SELECT chosen.*, CAST(CASE kind WHEN 'ask' THEN attempts + 1 WHEN 'rule' THEN 0
                          ELSE (latest & ((1 << 20) - 1)) >> 2 END AS INTEGER) AS attempt,
           row_number() OVER (ORDER BY kind{together}, {key_names}) - 1 AS row
    FROM chosen
)
SELECT numbered.row, numbered.kind, numbered.verdict AS reason, {key_names},
       numbered.key_hash, numbered.content_hash, numbered.attempt, numbered.doubled,
       numbered.latest, numbered.same_content, numbered.place, numbered.rule, NULL::UUID AS turns,
       CASE kind WHEN 'reuse' THEN earlier.custom_id ELSE {custom_id} END AS custom_id
FROM numbered
LEFT JOIN earlier ON earlier.key_hash = numbered.key_hash AND earlier.rank = numbered.latest
    AND kind = 'reuse'
"""

PLAN_PROBLEMS = """
-- One row: the plan's asked rows; the different custom_ids among them; the rows that have none.
SELECT count(*) FILTER (WHERE kind = 'ask'),
       count(DISTINCT custom_id) FILTER (WHERE kind = 'ask'),
       count(*) FILTER (WHERE custom_id IS NULL)
FROM _bp_plan
"""

DUPLICATES = """
-- One row: how many records of the plan would ask what another one asks: the same content, and as many
-- tokens for the answer, going on from the same earlier answer if from any.
SELECT count(*) - count(DISTINCT (content_hash, doubled, turns)) FROM _bp_plan WHERE kind = 'ask'
"""

ASKED_ONCE = """
-- Table _bp_plan, in which the first of several alike is asked and the others are its duplicates, which
-- stand behind all the rest in the order of what they are duplicates of.
CREATE OR REPLACE TEMP TABLE _bp_plan AS
WITH alike AS (
    SELECT content_hash, doubled, turns, min(row) AS asked_row, arg_min(custom_id, row) AS asked_as
    FROM _bp_plan WHERE kind = 'ask' GROUP BY ALL HAVING count(*) > 1
),
marked AS (
    SELECT plan.*,
           CASE WHEN plan.row > alike.asked_row THEN alike.asked_row END AS asked_row,
           CASE WHEN plan.row > alike.asked_row THEN alike.asked_as END AS duplicate_of
    FROM _bp_plan AS plan LEFT JOIN alike
        ON plan.kind = 'ask' AND alike.content_hash = plan.content_hash
        AND alike.doubled = plan.doubled AND alike.turns IS NOT DISTINCT FROM plan.turns
)
SELECT * REPLACE (
           CASE WHEN asked_row IS NULL THEN row
                ELSE (SELECT count(*) FROM _bp_plan) - 1
                     + row_number() OVER (PARTITION BY asked_row IS NULL ORDER BY asked_row, row)
           END AS row,
           CASE WHEN asked_row IS NULL THEN kind ELSE 'duplicate' END AS kind)
FROM marked ORDER BY 1
"""

REASONS = """
-- One row per reason: how many records of the plan have it.
SELECT reason, count(*) FROM _bp_plan GROUP BY reason
"""

STANDS = """
-- One row: of the source rows that are neither asked now nor on their way, how many are answered as
-- they are now, how many failed, for good or to be asked again; and how many a rule settles.
SELECT (SELECT count(*) FILTER (latest & 3 = 3) FROM _bp_verdicts WHERE verdict IN {known})
       - (SELECT count(*) FILTER (latest & 3 = 3) FROM _bp_plan
          WHERE kind IN ('ask', 'duplicate') AND reason IN {known}),
       (SELECT count(*) FILTER (latest & 3 < 3) FROM _bp_verdicts
        WHERE verdict IN {known} AND NOT ruled)
       - (SELECT count(*) FILTER (latest & 3 < 3) FROM _bp_plan
          WHERE kind IN ('ask', 'duplicate') AND reason IN {known}),
       (SELECT count(*) FROM _bp_verdicts WHERE ruled AND verdict <> 'in_flight')
"""

GONE = """
-- Table _bp_gone: the latest row of each key that this partition published and that is no longer
-- in the source; nothing unless {look}.
CREATE OR REPLACE TEMP TABLE _bp_gone AS
SELECT key_hash, arg_max(content_hash, past) AS content_hash, arg_max(version, past) AS version,
       arg_max(custom_id, past) AS custom_id, arg_max(attempt, past) AS attempt
FROM (SELECT *, rank * 2 + CAST(deleted AS BIGINT) AS past FROM _bp_index WHERE {look})
ANTI JOIN _bp_hashed USING (key_hash)
GROUP BY key_hash
HAVING NOT arg_max(deleted, past) AND arg_max(partition, past) = {partition_key}
"""

MOVED = """
-- Table _bp_gone without the keys that the source has in another partition: they are not gone. Their
-- row stays until that partition's run takes it over.
DELETE FROM _bp_gone WHERE key_hash IN (SELECT {key_hash} FROM {source} AS source)
"""

IN_ORDER = """
-- One row: whether the plan holds every source row, in the order in which the source was read.
SELECT count(*) = (SELECT count(*) FROM _bp_hashed) AND bool_and(row = rowid AND row = place)
FROM _bp_plan
"""

RECORDS = """
-- File records.parquet: the planned source rows as they are, with the helper columns. A row that does
-- not read as it was judged is left out. xor: a comparison of the two would be a condition of the join,
-- and be computed for rows that are not in the plan.
COPY (
    SELECT {columns}, plan.row AS _row, plan.kind AS _kind, plan.reason AS _reason,
           plan.key_hash AS _key_hash, plan.content_hash AS _content_hash,
           plan.custom_id AS _custom_id, plan.attempt AS _attempt{doubled}{duplicates}{ruled}{attempts}
    FROM (SELECT * FROM {source} AS source WHERE {partition}) AS source
    {join}{join_attempts}
    WHERE {same_key} AND xor({same_content}, plan.same_content) = 0
    {order}
) TO {path} (FORMAT parquet, COMPRESSION {compression}, ROW_GROUP_SIZE {row_group_size})
"""

SELECTED = """
-- File index/selected.parquet: what this submission asks, publishes again, or removes.
COPY (
    SELECT key_hash, content_hash, {version} AS version, custom_id, attempt, 'pending' AS status
    FROM _bp_plan
    UNION ALL
    SELECT key_hash, content_hash, version, custom_id, CAST(attempt AS INTEGER), 'deleted'
    FROM _bp_gone
) TO {path} (FORMAT parquet, COMPRESSION zstd)
"""

ONCE = """
-- Table _bp_once: the source, read once, for sources that read differently each time.
CREATE OR REPLACE TEMP TABLE _bp_once AS SELECT * FROM source
"""
