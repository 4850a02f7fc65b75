create table tickets as
select i as ticket_id, 'Order ' || i as subject,
       case when i % 4 = 0 then '' else 'Where is my parcel ' || i || '?' end as body,
       timestamp '2026-03-01' as loaded_at
from range(1, 9) as t(i);
