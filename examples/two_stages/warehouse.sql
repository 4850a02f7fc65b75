create table reviews (review_id integer primary key, body varchar);
insert into reviews values
  (1, 'Praise: the boots are warm and fit at once. I walked from Passau to Vienna in them.'),
  (2, 'Complaint: the zip broke on the second day, and nobody answers my mails.'),
  (3, 'Question: do they come in size 47?'),
  (4, 'Complaint: two left gloves in the box. The return label could not be printed either.'),
  (5, 'Praise: arrived a day early. Thank you!'),
  (6, 'Complaint: the colour is grey, not the green of the picture, and it smells of oil.');
