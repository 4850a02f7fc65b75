create table questions (question_id integer primary key, question varchar);
insert into questions values
  (1, 'I bought the lamp 20 days ago and it is still in its box. May I send it back?'),
  (2, 'The courier left the parcel in the rain. What now?'),
  (3, 'Who pays when I return a sofa?'),
  (4, 'My voucher is from last year. Is it still good?'),
  (5, 'Do you deliver to Norway, and who pays the duties?'),
  (6, 'The drill stopped after 14 months. Is that covered?');
