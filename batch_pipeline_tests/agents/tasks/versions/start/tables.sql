create table tickets as
select i as ticket_id, 'Order ' || i as subject, 'version ' || v || ' of ticket ' || i as body,
       timestamp '2026-03-01' + to_days(v::int) as loaded_at
from range(1, 5) as t(i), range(1, 4) as u(v);
