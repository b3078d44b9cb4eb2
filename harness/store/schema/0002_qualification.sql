-- What `iroot bench qualify` found of a machine; `record` holds the JSON text of harness/qualification.py's record.
create table qualification (
    qualification_id varchar primary key,
    position bigint not null,  -- order of saving
    manifest varchar not null,
    machine_class varchar not null,
    uuid varchar,              -- of the unit
    record varchar not null
);

-- Measured effect of a planted slowdown, null in an ordinary launch.
alter table outcome add column injected_effect double;
