"""The SQL that joins answers to records. Each text says what it returns."""

# One row per record of a request file, and per duplicate of one: its columns as they were, the answer's
# fields if it was answered, and how it went. A record without an answer line is $unanswered (`missing`).
# What was billed stands once, with the record that was asked.
JOINED = """
select {source}, {output},
       coalesce(judged.status, $unanswered) as _status,
       case when judged.custom_id is null then $missing else judged.error end as _error,
       judged.model as _model,
       judged.stop_reason as _stop_reason,
       {billed.input_tokens} as _input_tokens,
       {billed.output_tokens} as _output_tokens,
       {billed.cache_read_tokens} as _cache_read_tokens,
       {billed.cache_write_tokens} as _cache_write_tokens,
       {billed.cost} as _cost_usd,
       records._custom_id as _custom_id,
       cast($batch_id as varchar) as _batch_id,
       records._attempt as _attempt,
       cast($answered_at as timestamptz) as _answered_at,
       {billed.duplicate_of} as _duplicate_of,
       {attempts} as _attempts
from recipients as records {join} join judged on judged.custom_id = records.{asked_as}
"""

# How it went with each of these records, without what is wide.
OUTCOMES = """
select narrow._key_hash, narrow._content_hash, narrow._custom_id, narrow._attempt,
       coalesce(judged.status, $unanswered) as _status, judged.stop_reason as _stop_reason,
       case when judged.status = 'rejected' then judged.error end as _error,
       narrow._duplicate_of is null as _is_asked
from narrow {join} join judged on judged.custom_id = narrow.asked_as
"""

# Of the recipients, what tells how it went with them.
NARROW = """
select {asked_as} as asked_as, _key_hash, _content_hash, _custom_id, _attempt,
       {duplicate_of} as _duplicate_of
from recipients
"""

# What joined rows came to: by status how many there are, how many may be asked again, how many are requests.
SUMS = """
select _status, count(*),
       count(*) filter (_attempt < {attempts} and _status not in {final} and not {overflowed}),
       count(*) filter ({is_asked})
from joined group by all order by all
"""

# The records that a request file asked: its range of rows without those that could not be asked.
ASKED = """
select * from read_parquet({records}) as r
where _kind = 'ask' and _row between {first_row} and {last_row}
  and not exists (from rejected where rejected._row = r._row)
"""

# The same, and the duplicates of these, each with the name of the request that was asked for it.
RECIPIENTS = """
select *, _custom_id as _bp_asked_as from asked
union all
select *, _duplicate_of from read_parquet({records}) as r
where _kind = 'duplicate' and _bp_asked_row between {first_row} and {last_row}
  and not exists (from rejected where rejected._row = r._bp_asked_row)
"""

# One row per answered request: the verdict on it, and its fields with their types.
JUDGED = """
select * exclude (answer), {parsed} as fields from {rows}
"""

# One row per record that could not be asked, with the reason.
REJECTED = """
select {source}, {output},
       'rejected' as _status, rejected.reason as _error,
       null::varchar as _model, null::varchar as _stop_reason,
       null::bigint as _input_tokens, null::bigint as _output_tokens,
       null::bigint as _cache_read_tokens, null::bigint as _cache_write_tokens,
       null::double as _cost_usd, records._custom_id as _custom_id, null::varchar as _batch_id,
       records._attempt as _attempt, cast($answered_at as timestamptz) as _answered_at,
       {duplicate_of} as _duplicate_of, {attempts} as _attempts,
       records._key_hash as _key_hash, records._content_hash as _content_hash
from read_parquet({records}) as records join rejected on rejected._row = {asked_row}
"""

# One row per record whose answer is known from an earlier submission: its columns as they are
# now, and that answer with all that belongs to it.
REUSED = """
with wanted as (select * from read_parquet({records}) where _kind = 'reuse'),
     earlier as (
       select * from ({results})
       where _custom_id in (select _custom_id from wanted)
       qualify row_number() over (partition by _custom_id order by _status = 'answered' desc,
       _answered_at) = 1)
select {source}, {output},
       coalesce(earlier._status, 'missing') as _status,
       case when earlier._custom_id is null
            then 'The earlier answer is not in the store any more.' else earlier._error
       end as _error,
       earlier._model as _model, earlier._stop_reason as _stop_reason,
       earlier._input_tokens as _input_tokens, earlier._output_tokens as _output_tokens,
       earlier._cache_read_tokens as _cache_read_tokens,
       earlier._cache_write_tokens as _cache_write_tokens, earlier._cost_usd as _cost_usd,
       records._custom_id as _custom_id, earlier._batch_id as _batch_id, records._attempt as _attempt,
       earlier._answered_at as _answered_at, {duplicate_of} as _duplicate_of, {attempts} as _attempts,
       records._key_hash as _key_hash, records._content_hash as _content_hash
from wanted as records left join earlier on earlier._custom_id = records._custom_id
"""

# One row per record that a rule settled: its columns, and the answer that the rule gives, if it gives one.
RULED = """
with wanted as (select * from read_parquet({records}) where _kind = 'rule'),
     judged as (
       select *, {parsed} as fields, null::varchar as tool_calls, null::varchar as citations,
              null::varchar as thinking from (
         select _custom_id as custom_id, split_part(_bp_rule, ':', 1) as outcome,
                case when contains(_bp_rule, ':') then 'answered' else 'skipped' end as status,
                substr(_bp_rule, strpos(_bp_rule, ':') + 1) as answer
         from wanted))
select {source}, {output},
       judged.outcome as _status, null::varchar as _error,
       null::varchar as _model, null::varchar as _stop_reason,
       null::bigint as _input_tokens, null::bigint as _output_tokens,
       null::bigint as _cache_read_tokens, null::bigint as _cache_write_tokens,
       0::double as _cost_usd, records._custom_id as _custom_id, null::varchar as _batch_id,
       records._attempt as _attempt, cast($answered_at as timestamptz) as _answered_at,
       null::varchar as _duplicate_of, null::json as _attempts,
       records._key_hash as _key_hash, records._content_hash as _content_hash
from wanted as records join judged on judged.custom_id = records._custom_id
"""

# Whether an answer filled the model's context window: more tokens for it would not help.
OVERFLOWED = (
    "(_status = 'truncated' and _stop_reason is not distinct from 'model_context_window_exceeded')"
)

# The index rows of joined rows: all that a later selection reads of them. What filled the context window
# is asked again as what was rejected is: once its request differs.
INDEX = f"""
select _key_hash as key_hash, _content_hash as content_hash, $version as version,
       _custom_id as custom_id, _attempt as attempt,
       case when {OVERFLOWED} then 'rejected' else _status end as status
from joined
"""

# Which requests the API refused, by its message; two messages are enough to know that it was not all the same.
REFUSALS = """
select coalesce(_error, ''), count(*) from joined where _status = 'rejected' and _is_asked group by all limit 2
"""

# Per key, which index file holds the row to show: over all the index files of the pipeline, the highest
# submission, then attempt, then an answer before no answer. When that is a failure and the same
# content and question were answered before, the answer stays; then ``failed_id`` and
# Where the better model has no answer, the first one's row stays.
# ``failed_position`` say which attempt failed. ``rank`` tells which of two keys' rows is newer.
WINNERS = """
with ranked as (
       select i.key_hash, i.custom_id, i.status, i.content_hash, i.version, files.position,
              (files.number << 20) + i.attempt * 4 + (i.status = 'answered')::int as rank
       from ({index}) as i join files using (file)
       where i.status <> 'pending' and (i.status = 'answered' or not files.escalated){among}),
     latest as (
       select key_hash, arg_max(custom_id, rank) as custom_id, arg_max(status, rank) as status,
              arg_max(position, rank) as position, arg_max(content_hash, rank) as content_hash,
              arg_max(version, rank) as version, max(rank) as rank
       from ranked group by key_hash),
     kept as (
       select key_hash, arg_max(ranked.custom_id, ranked.rank) as custom_id,
              arg_max(ranked.position, ranked.rank) as position
       from ranked join latest using (key_hash, content_hash, version)
       where ranked.status = 'answered' and latest.status not in ('answered', 'deleted')
       group by key_hash)
select key_hash, coalesce(kept.custom_id, latest.custom_id) as custom_id,
       case when kept.custom_id is null then latest.status else 'answered' end as status,
       coalesce(kept.position, latest.position) as position,
       case when kept.custom_id is not null then latest.custom_id end as failed_id,
       case when kept.custom_id is not null then latest.position end as failed_position,
       latest.rank as rank
from latest left join kept using (key_hash)
"""

# What attempts failed by whose earlier answer stays.
FAILURES = """
select w.custom_id, any_value(r._status || coalesce(': ' || r._error, '')) as said
from read_parquet({results}, union_by_name = true) r join winners w on w.failed_id = r._custom_id
where r._status <> 'answered'
group by w.custom_id
"""
