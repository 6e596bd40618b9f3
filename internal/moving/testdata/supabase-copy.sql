--
-- PostgreSQL database dump
--

SET statement_timeout = 0;

COPY auth.schema_migrations (version) FROM stdin;
20240501
\.

COPY auth.users (instance_id, id, aud, role, email, encrypted_password, email_confirmed_at, raw_user_meta_data, created_at, updated_at, banned_until, deleted_at) FROM stdin;
00000000-0000-0000-0000-000000000000	a1d4c5b0-1111-4222-8333-000000000011	authenticated	authenticated	grace@copy.example	$2a$05$ldxAdh9NeojG9/bMRjMrVu7VW2DXBOOUVThyZdnC2YmhpNZNtRT/S	2024-05-01 12:00:00.123456+00	{"name": "Grace \\"Amazing\\" Hopper"}	2024-04-30 12:00:00+00	2024-05-02 12:00:00+00	\N	\N
00000000-0000-0000-0000-000000000000	a1d4c5b0-1111-4222-8333-000000000012	authenticated	authenticated	\N	\N	\N	{}	2024-04-30 12:00:00+00	2024-05-02 12:00:00+00	\N	\N
\.

COPY storage.objects (id) FROM stdin;
1
\.
