create table tickets as
select i as ticket_id, 'Order ' || i as subject,
       case i % 4 when 0 then 'Where is my parcel ' || i || '?'
                  when 1 then 'You charged me ' || i || ' euros twice.'
                  when 2 then 'The zip of bag ' || i || ' broke.'
                  else 'Thank you for article ' || i || '.' end as body,
       timestamp '2026-03-01' as loaded_at
from range(1, 9) as t(i);
